"""Records of one call through an attached model, and which call runs in a thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from trimkit.core.types import Report
from trimkit.pipeline.stage_clock import StageClock

__all__ = ["CallRecord", "CurrentCall"]


class CallRecord:
    """Clock and report of one call.

    Attributes:
        clock: seconds of its stages.
        passes: whether its inputs are left as they are (a draft of assisted decoding).
        report: what was reduced, or None.
        pruning: the context in which the language model drops tokens; empty for methods that drop them before it.
        restore: what makes the output of the forward pass fit for the caller, or None.
    """

    def __init__(self, device: torch.device) -> None:
        self.clock = StageClock(device)
        self.passes = False
        self.report: Report | None = None
        self.pruning: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        self.restore: Callable[[Any], Any] | None = None


class CurrentCall(threading.local):
    """The call that runs in this thread, if any, and the report of the thread's last call.

    Attributes:
        record: the ``generate`` or ``forward`` call in progress.
        forwards: how many attached ``forward`` calls of the whole model are in progress, one within the other.
        report: of the last call.
    """

    record: CallRecord | None = None
    forwards: int = 0
    report: Report | None = None

    @contextlib.contextmanager
    def generating(self, record: CallRecord) -> Iterator[None]:
        """Hold ``record`` while ``generate`` runs."""
        before, self.record = self.record, record
        forwards, self.forwards = self.forwards, 0  # a nested generate, called from within a forward pass, is its own
        try:
            yield
        finally:
            self.record, self.forwards = before, forwards

    @contextlib.contextmanager
    def in_forward(self) -> Iterator[None]:
        """While the stock ``forward`` of the whole model runs: what its base model is given was reduced already."""
        self.forwards += 1
        try:
            yield
        finally:
            self.forwards -= 1
