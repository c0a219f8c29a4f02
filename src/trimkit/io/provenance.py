"""What a measurement was made with: versions and hardware, nothing that names a machine or its user."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trimkit.version import __version__

__all__ = ["hardware", "versions"]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    found = {"python": platform.python_version(), "trimkit": __version__}
    for name in ("torch", "transformers", "pillow", "numpy"):
        found[name] = version(name)
    return found


def hardware(device: str) -> dict[str, Any]:
    """Processor, threads and, for a CUDA device, the GPU."""
    import torch

    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
