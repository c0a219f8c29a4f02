"""The clock of one call, and which call runs in a thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from trimkit.types import Report, StageSeconds

__all__ = ["Call", "CallSlot"]


class Call:
    """Clock and report of one call."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._prefilled = False
        self.seconds = StageSeconds()
        self.report: Report | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside to ``seconds.<name>``."""
        start = self._clock()
        yield
        setattr(self.seconds, name, getattr(self.seconds, name) + self._clock() - start)

    @contextlib.contextmanager
    def prefill(self) -> Iterator[None]:
        """Time the first forward pass; later ones pass through."""
        if self._prefilled:
            yield
            return
        self._prefilled = True
        with self.stage("prefill"):
            yield


class CallSlot(threading.local):
    """The ``generate`` call that runs in this thread, if any."""

    current: Call | None = None

    @contextlib.contextmanager
    def use(self, call: Call) -> Iterator[None]:
        """Hold ``call`` while ``generate`` runs."""
        before, self.current = self.current, call
        try:
            yield
        finally:
            self.current = before
