"""Wall-clock seconds of each stage of one call."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from trimkit.core.types import StageSeconds

__all__ = ["StageClock"]


class StageClock:
    """Adds up seconds per stage. On a GPU it waits for the device at each boundary, so that a stage's time is its own.

    Args:
        device: where the model runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = StageSeconds()
        self._device = device
        self._prefilled = False
        self._prefill_began: float | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside to ``seconds.<name>``."""
        start = self._now()
        yield
        passed = self._now() - start
        setattr(self.seconds, name, getattr(self.seconds, name) + passed)
        if self._prefill_began is not None:
            self._prefill_began += passed  # a stage within the prefill: no second is counted twice

    def start_prefill(self) -> None:
        """Start the clock of the first forward pass; later passes are not timed."""
        self._prefill_began, self._prefilled = None if self._prefilled else self._now(), True

    def stop_prefill(self) -> None:
        """Stop what ``start_prefill`` has started."""
        if self._prefill_began is not None:
            self.seconds.prefill, self._prefill_began = self._now() - self._prefill_began, None

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
