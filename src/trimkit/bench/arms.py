"""One arm: the stock model with nothing attached, or one method at one budget; and one timed call of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from trimkit.attach import Attachment, reduce
from trimkit.bench.probe import Meter, Probe, Trace
from trimkit.bench.subject import Request, Subject
from trimkit.core.types import Report
from trimkit.engines import TowerEngine
from trimkit.methods import Method
from trimkit.pipeline.feature_cache import FeatureCache

__all__ = ["ADDED", "STAGES", "Arm", "Run", "clock_of"]

STAGES = ("vision", "text", "select", "shrink", "project", "prefill", "decode")
"""In the order of a request; what generate does besides is ``other``."""

ADDED = ("text", "select", "shrink")
"""What a stock call does not do."""


@dataclass
class Run:
    """Seconds of one call: ``times`` by the name they have in the result, ``stages`` by stage, ``layers`` of the language model
    in prefill and in ``steps`` decoding steps.
    """

    times: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    layers: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    @property
    def added_share(self) -> float:
        """Text tower, scoring, choosing and shortening as a share of the whole call."""
        return sum(self.stages[name] for name in ADDED) / self.times["end_to_end_s"]


class Arm:
    """Calls of one kind on a subject.

    Args:
        subject: the model and what it is asked.
        method: how tokens are dropped; None is the stock model.
        batch: rows of a call.
        new_tokens: that each row generates, whatever they say.
        tower_keep, tower_layer, vision_engine: as ``trimkit.reduce`` takes them.
    """

    def __init__(
        self,
        subject: Subject,
        method: Method | None,
        batch: int,
        new_tokens: int,
        tower_keep: float | None = None,
        tower_layer: int | None = None,
        vision_engine: str | None = None,
    ) -> None:
        self.subject, self.method, self.batch, self.new_tokens = subject, method, batch, new_tokens
        self.tower_keep = tower_keep
        self._engine = None if vision_engine is None else TowerEngine(vision_engine)
        self.attachment: Attachment | None = None
        if method is not None:
            # Room for the pictures of two calls, so that a second question finds its picture; no other arm's cache.
            tower: dict[str, Any] = {
                "tower_keep": tower_keep,
                "tower_layer": tower_layer,
                "vision_engine": self._engine,
            }
            held = FeatureCache(2 * batch * subject.pictures)
            options: dict[str, Any] = {"scorer": subject.scorer, "cache_images": held, **tower}
            self.attachment = reduce(subject.model, subject.processor, method=method, **options)
            with self.attachment:  # loads the engine, which stays
                pass
        self._probe = Probe(subject.model, getattr(subject.scorer, "text_model", None), stock=method is None)
        self._clock = clock_of(subject.model.device)

    @property
    def label(self) -> dict[str, Any]:
        """What tells this arm from the others of its batch and length."""
        method = self.method
        return {
            "method": "none" if method is None else method.name,
            "budget": 1.0 if method is None else method.budget.to_plain(),
            "tower_keep": self.tower_keep,
            "vision_engine": None if self._engine is None else self._engine.name,
        }

    @property
    def reads_text(self) -> bool:
        """Whether a text embedding can be cold or warm."""
        return self.method is not None and self.method.needs_relevance

    @property
    def scorings(self) -> int:
        """How often all patches are compared with the question: in the middle of the tower, too, where it drops some."""
        return int(self.reads_text) + int(self.tower_keep is not None)

    @property
    def report(self) -> Report | None:
        """Of the last call; None for the stock model."""
        return None if self.attachment is None else self.attachment.report

    def forget(self) -> None:
        """Empty the caches of pictures and questions."""
        if self.attachment is not None:
            self.attachment.clear_cache()

    def request(self, picture: int = 0, question: int = 0) -> Request:
        """What to ask; made beforehand, since it is not timed."""
        return self.subject.request(self.batch, picture, question, self.new_tokens)

    def call(self, request: Request, streamer: Any = None, **options: Any) -> Any:
        """One ``generate`` call of the model, attached for it."""
        with self.attachment or contextlib.nullcontext():
            return self._generate(request, streamer, **options)

    def _generate(self, request: Request, streamer: Any = None, **options: Any) -> Any:
        settings: dict[str, Any] = {
            "max_new_tokens": self.new_tokens,
            "min_new_tokens": self.new_tokens,
            "do_sample": False,
        }
        if streamer is not None:
            settings["streamer"] = streamer
        if self.attachment is not None and request.query is not None:
            settings["query"] = request.query
        with torch.no_grad():
            return self.subject.model.generate(**request.inputs, **settings, **options)

    @contextlib.contextmanager
    def observed(self, read: Meter) -> Iterator[Trace]:
        """Stages and lengths of the calls inside, read with ``read``. Torch runs the tower of an engine here, to be counted."""
        paused = contextlib.nullcontext() if self._engine is None else self._engine.paused()
        with paused, self._probe.watch(read, lengths=True) as trace:
            yield trace

    def time(self, request: Request) -> Run:
        """One call by the clock."""
        ticks = _Ticks(self._clock)
        with self.attachment or contextlib.nullcontext(), self._probe.watch(self._clock) as trace:
            start = self._clock()  # a model is attached once for many calls
            self._generate(request, ticks)
            whole = self._clock() - start
        first, prefill, decode = ticks.at[1], trace.passes[0], trace.passes[1:]
        times = {"end_to_end_s": whole, "ttft_s": first - start, "prefill_s": prefill.whole}
        if self.new_tokens > 1:
            times["decode_per_token_s"] = (ticks.at[-1] - first) / (self.new_tokens - 1)
        layers = {"prefill": prefill.layers, "decode": sum(step.layers for step in decode)}
        return Run(times, self._stages(trace, whole, ticks.at[-1] - first), layers, len(decode))

    def _stages(self, trace: Trace, whole: float, decode: float) -> dict[str, float]:
        stages = dict.fromkeys(STAGES, 0.0)
        stages.update(trace.spent)
        if self.report is not None:  # its own clock knows what lies between the modules
            seconds = asdict(self.report.seconds)
            stages.update({name: seconds[name] for name in STAGES if name in seconds})
        inside = stages["select"] if self.method is not None and self.method.stage == "llm" else 0.0
        stages.update(prefill=trace.passes[0].whole - inside, decode=decode)  # no second is counted twice
        stages["other"] = max(whole - sum(stages.values()), 0.0)
        return stages


def clock_of(device: torch.device) -> Meter:
    """Seconds; waits for a GPU first."""

    def read() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


class _Ticks:
    """A streamer that notes when the prompt and each token come."""

    def __init__(self, clock: Meter) -> None:
        self._clock = clock
        self.at: list[float] = []

    def put(self, value: Any) -> None:
        self.at.append(self._clock())

    def end(self) -> None:
        """Nothing is held back."""
