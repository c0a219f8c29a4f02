"""How a request begins: its prompt is run, and where the model is unsure of its first tokens, run again with more image tokens.

Nothing is told of a reply before its rung is decided. The tokens that are looked at are drawn one request at a time, while the
replies that run wait: look at few. The tower's features are held, so that a rung costs a prefill and no pass of the tower.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from trimkit.attach.ladder import everything
from trimkit.core.confidence import Fallback, token_confidence
from trimkit.core.types import Report, Rung
from trimkit.methods import Method, get_method
from trimkit.serving.server.batching import Row
from trimkit.serving.server.errors import ApiError
from trimkit.serving.server.jobs import Event, Job, Started
from trimkit.serving.server.kv_batch import KVBatch
from trimkit.serving.server.prefill import Prefill, Prefilled, ReducedPrompt

__all__ = ["Begun", "begin"]


@dataclass(frozen=True)
class Begun:
    """A reply whose rung is decided.

    Attributes:
        row: of the batch; its first tokens are drawn.
        prompt: of the last rung.
        filled, length: the cache and its columns; tokens that are drawn but the last stand in it.
        events: what is to be told of the tokens that it has taken.
        goes_on: whether there is more to come.
        prompt_tokens: of all rungs.
        report: with the rungs, or None without pictures.
    """

    row: Row
    prompt: ReducedPrompt
    filled: Prefilled
    length: int
    events: Sequence[Event]
    goes_on: bool
    prompt_tokens: int
    report: Report | None

    @property
    def started(self) -> Started:
        """What is told first."""
        return Started(len(self.prompt.ids), self.report, self.prompt.fallback)


def begin(job: Job, model: Any, prefill: Prefill, row_of: Callable[[Job, ReducedPrompt], Row]) -> Begun:
    """Run the prompt of ``job`` and draw its first token, on one rung after the other.

    A rung that there is no room for is not tried: the answer of the one before stays.

    Args:
        job: the request.
        model: takes the steps of the look-ahead.
        prefill: runs prompts.
        row_of: makes the row of a prompt, and refuses what there is no room for.

    Raises:
        ApiError: there is no room for the first rung.
    """
    fallback = job.fallback if job.pictures else None
    methods = [job.method] if fallback is None else _methods(job.method, fallback)
    tries: list[_Try] = []
    for number, method in enumerate(methods):
        last = number == len(methods) - 1 or job.cancelled
        trial = replace(job, method=method, emit=_Told(), ids=[])
        began = time.perf_counter()
        try:
            prompt = prefill.reduce(trial)
            row = row_of(trial, prompt)
        except ApiError:
            if not (tries and tries[-1].usable):
                raise
            break
        before = tries[-1].said if tries else None
        tries.append(_Try(model, row, prompt, prefill.run(prompt), None if last else fallback, number, before))
        tries[-1].words = "all tokens" if number == len(methods) - 1 else method.budget.in_words()
        tries[-1].seconds = time.perf_counter() - began
        if tries[-1].sure:
            break
    return tries[-1].begun(job, tries, told=fallback is not None)


class _Told(list[Event]):
    """Events that nobody has been told yet."""

    def __call__(self, event: Event) -> None:
        """As a job's ``emit``."""
        self.append(event)


class _Try:
    """A prompt that was run and its first tokens, as many as are looked at; one without ``fallback``, which is always sure.

    Attributes:
        row, prompt: of it.
        sure, usable: whether the model was sure of all of them, and whether the reply can go on from them.
        said: the likeliest tokens of those that are looked at; empty where no rung compares them.
        words, seconds: of its budget, and that it took.
    """

    def __init__(
        self,
        model: Any,
        row: Row,
        prompt: ReducedPrompt,
        filled: Prefilled,
        fallback: Fallback | None,
        rung: int,
        before: Sequence[int] | None,
    ) -> None:
        self.row, self.prompt, self.words, self.seconds = row, prompt, "", 0.0
        self._filled, self._length, self._goes_on = filled, len(prompt.ids), True
        self.sure = self.usable = True
        self.said: list[int] = []
        look = _Look(fallback, rung, before)
        steps: KVBatch | None = None
        logits = filled.logits
        for number in range(look.tokens):
            if number:
                if steps is None:
                    steps = KVBatch(model)
                    steps.join(filled.cache, self._length, filled.position)
                logits = steps.step([row.last])[0]
            self.usable = look.at(row, logits)
            if not self.usable:
                self.sure = False
                break
            self._goes_on = row.take(row.draw(logits))
            self.sure = look.sure(over=number + 1 == look.tokens or not self._goes_on)
            if not (self._goes_on and (self.sure or look.needed)):
                break
        self.said = look.said
        if steps is not None:
            cache, self._length, position = steps.only_row()
            self._filled = Prefilled(logits, cache, position)

    def begun(self, job: Job, tries: Sequence[_Try], *, told: bool) -> Begun:
        """What goes on from here, as the last of ``tries``; with their rungs in the report where they are to be ``told``."""
        events: Sequence[Event] = self.row.job.emit if isinstance(self.row.job.emit, _Told) else ()
        job.ids, self.row.job = self.row.job.ids, job
        report = None if self.prompt.reduced is None else self.prompt.reduced.report
        if report is not None and told:
            report = replace(report, rungs=tuple(each.rung(stayed=each is self) for each in tries))
        used = sum(len(each.prompt.ids) for each in tries)
        return Begun(self.row, self.prompt, self._filled, self._length, events, self._goes_on, used, report)

    def rung(self, *, stayed: bool) -> Rung:
        """What is reported of it."""
        report = None if self.prompt.reduced is None else self.prompt.reduced.report
        tokens = 0 if report is None else report.tokens_after
        return Rung(self.words, (0,), (0,) if stayed else (), tokens, (tokens,), self.seconds)


class _Look:
    """What is seen of an answer's first tokens on a rung; without ``fallback`` every answer is sure.

    Attributes:
        tokens: how many are looked at.
        said: the likeliest ones so far; empty where no rung compares them.
        needed: whether the next rung compares them with its own, so that all are to be looked at.
    """

    def __init__(self, fallback: Fallback | None, rung: int, before: Sequence[int] | None) -> None:
        self._fallback, self._before = fallback, before
        self.tokens, self.said, self.needed = 1, list[int](), False
        self._threshold = self._agreed = -math.inf
        self._lowest = math.inf
        if fallback is not None:
            self.tokens, compared = fallback.tokens, rung < len(fallback.agreed)
            self.needed = compared and fallback.agreed_of(rung + 1) < fallback.threshold_of(rung + 1)
            self._threshold, self._agreed = fallback.threshold_of(rung), fallback.agreed_of(rung)

    def at(self, row: Row, logits: torch.Tensor) -> bool:
        """Look at the scores of the next token; false where they are no numbers."""
        if self._fallback is None:
            return True
        try:
            scores = row.scores(logits)
            found = float(token_confidence(scores, self._fallback.measure))
        except FloatingPointError:
            return False
        self._lowest = min(self._lowest, found)
        if self._fallback.agreed:
            self.said.append(int(scores.argmax()))
        return not math.isnan(found)

    def sure(self, *, over: bool) -> bool:
        """Whether the answer stays, as far as is known; ``over`` says that no token comes that is looked at."""
        if self._lowest >= self._threshold:
            return True
        if self._before is None or self._lowest < self._agreed:
            return False
        begun = list(self._before[: len(self.said)])
        return self.said == (list(self._before) if over else begun)


def _methods(method: Method, fallback: Fallback) -> list[Method]:
    return [method, *(get_method(method, budget=budget) for budget in fallback.ladder), everything()]
