"""The clock of one call, and which call runs in a thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from trimkit.types import Report, StageSeconds

__all__ = ["Call", "CallSlot"]


class Call:
    """Clock and report of one call."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._prefilled = False
        self._begun: float | None = None
        self.passes = False  # whether its inputs are not ours to shorten
        self.seconds = StageSeconds()
        self.report: Report | None = None
        self.inside: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()  # what drops tokens meanwhile
        self.mend: Callable[[Any], Any] | None = None  # what the forward pass gives, made fit for the caller

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside to ``seconds.<name>``."""
        start = self._clock()
        yield
        passed = self._clock() - start
        setattr(self.seconds, name, getattr(self.seconds, name) + passed)
        if self._begun is not None:
            self._begun += passed  # within a forward pass: no second is counted twice

    def begin_forward(self) -> None:
        """Start the clock of the first forward pass; later ones pass through."""
        self._begun, self._prefilled = None if self._prefilled else self._clock(), True

    def end_forward(self, out: Any) -> Any:
        """Stop it, and give what the pass gave."""
        if self._begun is not None:
            self.seconds.prefill, self._begun = self._clock() - self._begun, None
        return out if self.mend is None else self.mend(out)


class CallSlot(threading.local):
    """The ``generate`` call that runs in this thread, if any, and the report of the thread's last call."""

    current: Call | None = None
    report: Report | None = None

    @contextlib.contextmanager
    def use(self, call: Call) -> Iterator[None]:
        """Hold ``call`` while ``generate`` runs."""
        before, self.current = self.current, call
        try:
            yield
        finally:
            self.current = before
