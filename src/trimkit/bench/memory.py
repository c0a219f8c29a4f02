"""The most memory that a piece of work takes above what is there before it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["measure_peak"]

_PROC = Path("/proc/self")
_PERIOD = 0.001


def measure_peak(run: Callable[[], object], device: torch.device) -> tuple[int, str]:
    """Run, and say how many bytes it took at its most above the start, and how that was measured.

    What is free already is first handed back to the system, since it would be used again unseen. ``cuda-allocator`` is exact.
    ``rss-high-water`` is the kernel's own mark of the process's resident memory; ``rss-sampled`` reads that memory every
    millisecond where the mark cannot be reset; ``rss-maximum`` only sees what goes beyond all that was before.
    """
    gc.collect()
    if device.type == "cuda":
        return _on_gpu(run, device), "cuda-allocator"
    _trim()
    if not (_PROC / "statm").is_file():
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


def _trim() -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


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
