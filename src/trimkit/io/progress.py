"""Progress bars of the libraries below, kept off a terminal while trimkit loads something."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["without_progress_bars"]

_lock = threading.Lock()
_inside = 0
_restore: Callable[[], None] | None = None


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Neither transformers nor huggingface_hub draws a bar inside; afterwards both are as they were.

    Several threads may be inside at once: the last one to leave restores what the first one found. Bars that other threads draw
    in the meantime stay off, too. Where the environment variable HF_HUB_DISABLE_PROGRESS_BARS says what is to be, it is obeyed.
    """
    global _inside, _restore
    with _lock:
        if _inside == 0:
            _restore = _switch_off()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _restore is not None:
                _restore()
                _restore = None


def _switch_off() -> Callable[[], None] | None:
    """Switch all bars off; returns what undoes it."""
    from huggingface_hub import constants
    from transformers.utils import logging

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:
        return None
    bars: Any = logging  # typed only in part
    groups: dict[str, bool] = importlib.import_module("huggingface_hub.utils.tqdm").progress_bar_states
    drawn, before = bars.is_progress_bar_enabled(), dict(groups)
    bars.disable_progress_bar()

    def restore() -> None:
        if drawn:
            bars.enable_progress_bar()
        groups.clear()  # enabling forgets the groups that the user had switched off
        groups.update(before)

    return restore
