"""Memory of a process that serves for weeks: what is freed goes back to the system, and garbage is found early."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

__all__ = ["forget_frames", "give_back_memory", "settle_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def settle_memory() -> None:
    """Called once when everything is loaded; changes how this whole process allocates.

    What is there now is taken out of the garbage collector's sight, whose full rounds are then short and come often. With
    glibc, large blocks (bodies, pictures) are always mapped, so that they leave no holes, and threads share two arenas.
    """
    gc.collect()
    gc.freeze()
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 32 * 2**20)
        mallopt(_M_ARENA_MAX, 2)


def give_back_memory() -> None:
    """Let the system have whole pages that are free between blocks in use; takes milliseconds. Called every now and then.

    Replies in a batch get longer step by step, each step's keys and values a little larger than the last one's. glibc keeps
    what they leave, and a server that is always busy grows with it.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where there is no such thing (musl, other systems)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def forget_frames(error: BaseException | None) -> None:
    """Let go of the frames that an error came through: they hold its request's body and pictures."""
    while error is not None:
        error.__traceback__ = None
        following = error.__cause__ or error.__context__
        error.__cause__ = error.__context__ = None
        error = following
