"""One answer as it is generated: text so far, tokens, time to the first token, seconds and FLOPs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from trimkit.core.report import Report
from trimkit.methods import Method
from trimkit.models import family_of
from trimkit.web.flops import answer_flops, prefill_lengths
from trimkit.web.model import Loaded

__all__ = ["Progress", "stream_answer"]

_PATIENCE = 0.5  # seconds between two looks at the queue, to say that an answer waits


@dataclass(frozen=True)
class Progress:
    """An answer so far.

    Attributes:
        text: what is generated.
        state: ``waiting`` for somebody else's answer, ``reading`` picture and question, ``answering``, or ``done``.
        tokens_full, tokens_kept: image tokens before and after reduction; the second is known when it is done.
        new_tokens: generated so far.
        first_s: seconds from pixels to the first token, None before.
        seconds: from pixels to now.
        flops: of the whole answer by formula; None where no formula covers the model or the method.
        report: what was kept; None for the full model.
    """

    text: str = ""
    state: str = "waiting"
    tokens_full: int = 0
    tokens_kept: int | None = None
    new_tokens: int = 0
    first_s: float | None = None
    seconds: float = 0.0
    flops: int | None = None
    report: Report | None = None


def stream_answer(
    loaded: Loaded, inputs: Any, question: str, method: Method | None, new_tokens: int
) -> Iterator[Progress]:
    """Generate greedily, and say how far it is.

    Args:
        loaded: the model; one answer is generated at a time.
        inputs: of one conversation, on the model's device.
        question: what the patches are chosen for.
        method: how tokens are dropped; None for the full model.
        new_tokens: length limit.

    Yields:
        The answer so far; the last one is ``done``. Nothing is carried over from earlier calls, so both arms start from pixels.

    Raises:
        Exception: whatever the model raises.
    """
    work = _Work(loaded, inputs, question, method, new_tokens)
    thread = threading.Thread(target=work.run, name="trimkit-answer", daemon=True)
    thread.start()
    try:
        yield from work.progress()
    finally:
        work.stopped.set()


class _Work:
    """One call of ``generate`` in a thread of its own, and what it says on the way."""

    def __init__(self, loaded: Loaded, inputs: Any, question: str, method: Method | None, new_tokens: int) -> None:
        self._loaded, self._inputs, self._question = loaded, inputs, question
        self._method, self._new_tokens = method, new_tokens
        self._said: queue.Queue[Progress | BaseException] = queue.Queue()
        self.stopped = threading.Event()
        token = family_of(loaded.model).image_token_id(loaded.model)
        self._now = Progress(tokens_full=int((inputs["input_ids"] == token).sum()))

    def progress(self) -> Iterator[Progress]:
        """What ``run`` says, in another thread."""
        latest = self._now
        while latest.state != "done":
            try:
                said = self._said.get(timeout=_PATIENCE)
            except queue.Empty:
                yield latest
                continue
            if isinstance(said, BaseException):
                raise said
            latest = said
            yield latest

    def run(self) -> None:
        """Wait for the model, and generate."""
        try:
            with self._loaded.answering:
                if not self.stopped.is_set():
                    self._generate()
        except BaseException as error:
            self._said.put(error)

    def _generate(self) -> None:
        from trimkit.attach import reduce
        from trimkit.pipeline.model_store import scorer_of

        loaded, method = self._loaded, self._method
        self._say(state="reading")
        if method is None:
            lengths = self._call()
            self._finish(None, lengths)
            return
        scorer = scorer_of(loaded.model, loaded.scorer) if method.needs_relevance else None  # loading is not timed
        held: dict[str, Any] = {"query": self._question, "cache_images": 0}
        trim = reduce(loaded.model, loaded.processor, method=method, scorer=scorer, **held)
        trim.clear_cache()
        with trim:
            lengths = self._call()
        self._finish(trim.report, lengths)

    def _call(self) -> list[int]:
        """Run ``generate``; what each layer of the language model saw of the prompt."""
        from trimkit.web.streaming import stopping, streamer

        start = time.perf_counter()

        def spoke(text: str, tokens: int, first: float | None) -> None:
            seconds = time.perf_counter() - start
            first_s = None if first is None else first - start
            self._say(state="answering", text=text, new_tokens=tokens, seconds=seconds, first_s=first_s)

        model = self._loaded.model
        with prefill_lengths(model) as lengths:
            model.generate(
                **self._inputs,
                max_new_tokens=self._new_tokens,
                do_sample=False,
                streamer=streamer(self._loaded.processor, spoke),
                stopping_criteria=stopping(self.stopped),
            )
        self._now = replace(self._now, seconds=time.perf_counter() - start)
        return lengths

    def _finish(self, report: Report | None, lengths: list[int]) -> None:
        kept = self._now.tokens_full if report is None else report.tokens_after
        done = replace(self._now, tokens_kept=kept, report=report, text=self._now.text.strip())
        words = int(self._inputs["input_ids"].shape[1]) - done.tokens_full
        flops = answer_flops(self._loaded.model, self._method, words, kept, lengths, done.new_tokens)
        self._say(**{**vars(done), "state": "done", "flops": flops})

    def _say(self, **changes: Any) -> None:
        self._now = replace(self._now, **changes)
        self._said.put(self._now)
