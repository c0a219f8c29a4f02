"""The most memory that a piece of work takes above what is there before it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

__all__ = ["measure_peak"]

_PROC = Path("/proc/self")
_PERIOD = 0.001

# glibc's mallopt: from which size on memory comes from the system and goes back there, and how much it holds back.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_SMALL, _LARGE = 65_536, 32 * 1024 * 1024  # _LARGE is what glibc itself arrives at after a few large tensors


def measure_peak(run: Callable[[], object], device: torch.device) -> tuple[int, str]:
    """Run, and say how many bytes it took at its most above the start, and how that was measured.

    What is free already is first handed back to the system, since it would be used again unseen; under glibc, what is freed
    during the run goes back at once, so that gaps in the heap do not count. ``cuda-allocator`` is exact.
    ``rss-high-water`` is the kernel's own mark of the process's resident memory; ``rss-sampled`` reads that memory every
    millisecond where the mark cannot be reset; ``rss-maximum`` only sees what goes beyond all that was before.
    """
    gc.collect()
    if device.type == "cuda":
        return _on_gpu(run, device), "cuda-allocator"
    with _returned_at_once():
        return _resident(run)


def _resident(run: Callable[[], object]) -> tuple[int, str]:
    if not (_PROC / "status").is_file():
        return _beyond_maximum(run), "rss-maximum"
    before = _status("VmRSS")
    if _reset_high_water():
        run()
        return max(_status("VmHWM") - before, 0), "rss-high-water"
    return max(_sampled(run) - before, 0), "rss-sampled"


def _on_gpu(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device)) - int(before)


@contextlib.contextmanager
def _returned_at_once() -> Iterator[None]:
    """Every tensor gets pages of its own inside; afterwards as in a process that has run for a while."""
    try:
        library: Any = ctypes.CDLL(None)
        tune, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library
        yield
        return
    tune(_MMAP_THRESHOLD, _SMALL)
    trim(0)
    try:
        yield
    finally:
        tune(_MMAP_THRESHOLD, _LARGE)
        tune(_TRIM_THRESHOLD, 2 * _LARGE)


def _status(name: str) -> int:
    lines = (_PROC / "status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _reset_high_water() -> bool:
    """Linux: 5 sets the mark back to what is resident now."""
    try:
        (_PROC / "clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def _sampled(run: Callable[[], object]) -> int:
    seen, done = [_status("VmRSS")], threading.Event()

    def look() -> None:
        while not done.wait(_PERIOD):
            seen.append(_status("VmRSS"))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(seen)


def _beyond_maximum(run: Callable[[], object]) -> int:
    try:
        import resource
    except ImportError:  # Windows
        run()
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
