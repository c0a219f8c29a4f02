"""Seconds of each stage of one call, measured without making the host wait for the device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

import torch

from trimkit.core.types import StageSeconds

__all__ = ["DeviceSeconds", "StageClock"]

_STAGES = frozenset(each.name for each in fields(StageSeconds))


class DeviceSeconds(StageSeconds):
    """Seconds of stages on a GPU: marks in its queue, whose distance is taken when a stage is first read.

    Only then does the host wait, for the last of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._open: list[tuple[str, Any, Any]] = []

    def between(self, stage: str, start: Any, end: Any) -> None:
        """Add the time from one ``torch.cuda.Event`` to another to ``stage``."""
        self._open.append((stage, start, end))

    def __getattribute__(self, name: str) -> Any:
        if name in _STAGES:
            opened, self._open = vars(self).get("_open", []), []
            for stage, start, end in opened:
                end.synchronize()
                start.synchronize()
                vars(self)[stage] += start.elapsed_time(end) / 1000.0
        return super().__getattribute__(name)

    def __reduce__(self) -> Any:
        return StageSeconds, tuple(asdict(self).values())


class StageClock:
    """Adds up seconds per stage.

    Args:
        device: where the model runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = DeviceSeconds() if device.type == "cuda" else StageSeconds()
        self._device = device
        self._prefilled = False
        self._prefill_began: Any = None
        self._within: list[tuple[Any, Any]] = []
        self._ended: Any = None

    @contextlib.contextmanager
    def stage(self, name: str, *, follows: bool = False) -> Iterator[None]:
        """Add the time inside to ``seconds.<name>``; ``follows`` where nothing has been done since the stage before."""
        start = self._ended if follows and self._ended is not None else self._now()
        self._ended = None  # what fails within has no end
        yield
        end = self._ended = self._now()
        self._add(name, start, end)
        if self._prefill_began is not None:
            self._within.append((start, end))  # a stage within the prefill: no second is counted twice

    def start_prefill(self) -> None:
        """Start the clock of the first forward pass; later passes are not timed."""
        self._prefill_began, self._prefilled = None if self._prefilled else self._now(), True

    def stop_prefill(self) -> None:
        """Stop what ``start_prefill`` has started."""
        if self._prefill_began is not None:
            self._add("prefill", self._prefill_began, self._now())
            for start, end in self._within:
                self._add("prefill", end, start)
            self._prefill_began, self._within = None, []

    def _add(self, stage: str, start: Any, end: Any) -> None:
        if isinstance(self.seconds, DeviceSeconds):
            self.seconds.between(stage, start, end)
        else:
            setattr(self.seconds, stage, getattr(self.seconds, stage) + end - start)

    def _now(self) -> Any:
        """A point in time: of the CPU's clock, or of the device's queue."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
