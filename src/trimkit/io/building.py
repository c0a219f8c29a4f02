"""Models are built one after the other: transformers changes classes and functions of the whole process while it builds one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

__all__ = ["building_is_broken", "one_at_a_time"]

_lock = threading.RLock()


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other thread builds or loads a model through trimkit.

    ``from_pretrained`` replaces ``PreTrainedModel.tie_weights``, torch's initialisers and the default dtype, and puts back what
    it found. Of two threads the second finds what the first has put there: tied weights then count as missing, for good.
    """
    with _lock:
        yield


def building_is_broken() -> bool:
    """Whether threads that loaded models at the same time, not through trimkit, have left transformers' stand-ins in place."""
    from transformers import PreTrainedModel

    return (
        PreTrainedModel.tie_weights.__name__ != "tie_weights" or PreTrainedModel.init_weights.__name__ != "init_weights"
    )
