"""What the machine has: a GPU or none, arithmetic in half precision, free memory. Looked up before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from trimkit.bench.formula import Sizes, Work, peaks, weights
from trimkit.errors import ConfigError, InputError

__all__ = ["check_memory", "fast_bfloat16", "free_bytes", "need", "pick_dtype", "threads"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_RUNTIME = 300_000_000  # what torch itself takes for scratch and code, roughly
_MARGIN = 1.05


def fast_bfloat16(cpuinfo: str | None = None) -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; without, it is several times slower than float32.

    Args:
        cpuinfo: text of ``/proc/cpuinfo``; read where it is None.
    """
    if cpuinfo is None:
        path = Path("/proc/cpuinfo")
        cpuinfo = path.read_text(encoding="utf-8") if path.is_file() else ""
    flags = {flag for line in cpuinfo.splitlines() if line.startswith(("flags", "Features")) for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def pick_dtype(name: str, device: torch.device, warn: Callable[[str], None]) -> torch.dtype:
    """``auto`` is bfloat16 where the device is fast at it, else float32; a slow choice is warned of in one line.

    Raises:
        ConfigError: not a dtype that models are run in.
    """
    if name != "auto" and name not in _DTYPES:
        raise ConfigError(f"dtype {name!r} is not known: give one of auto, {', '.join(_DTYPES)}")
    if device.type != "cpu":
        return _DTYPES.get(name, torch.bfloat16)
    if name == "auto":
        return torch.bfloat16 if fast_bfloat16() else torch.float32
    if name == "float16" or (name == "bfloat16" and not fast_bfloat16()):
        warn(f"this CPU has no fast {name}: times will be longer than with --dtype float32")
    return _DTYPES[name]


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be had, the limit of a container included; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    lines = dict(line.split(":", 1) for line in info.read_text(encoding="utf-8").splitlines() if ":" in line)
    free = int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None
    limits = [left for left in map(_left, _CGROUPS) if left is not None]
    return min([*limits, *([] if free is None else [free])], default=None)


_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def _left(files: tuple[str, str]) -> int | None:
    try:
        limit, used = (Path(name).read_text(encoding="utf-8").strip() for name in files)
        return int(limit) - int(used)
    except (OSError, ValueError):  # no such file, or "max"
        return None


def need(sizes: Sizes, work: Work, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes that a model of these sizes and its largest request take."""
    numbers = weights(sizes)
    scorer_element = 4 if device.type == "cpu" else dtype.itemsize
    held = numbers["model"] * dtype.itemsize + numbers["scorer"] * scorer_element
    return int((held + peaks(sizes, work, dtype.itemsize)["peak"]) * _MARGIN) + _RUNTIME


def check_memory(
    name: str, sizes_with: Callable[[int], Sizes], layers: int, work: Work, dtype: torch.dtype, device: torch.device
) -> None:
    """Refuse a shape that does not fit; nothing has been allocated.

    Args:
        name: of the shape.
        sizes_with: the shape's sizes with so many layers.
        layers: what was asked for.
        work: the largest request, with all image tokens.
        dtype, device: how and where it is to run.

    Raises:
        InputError: it needs more than is free; says how much, and what would fit.
    """
    free = free_bytes(device)
    length = max(work.prefill)

    def wanted(count: int) -> int:
        request = Work(work.batch, work.tower, (), 0, work.projected, [length] * count, work.new_tokens)
        return need(sizes_with(count), request, dtype, device)

    if free is None or wanted(layers) <= free:
        return
    fits = max((count for count in range(1, layers) if wanted(count) <= free), default=0)
    remedy = f"give --layers {fits}" if fits else "give a smaller shape or --batch-size"
    if dtype.itemsize > 2:
        remedy += ", or --dtype bfloat16"
    where = "this GPU has" if device.type == "cuda" else "this machine has"
    raise InputError(
        f"shape {name!r} with {layers} layers, batch {work.batch}, needs about {_gigabytes(wanted(layers))} and {where} "
        f"{_gigabytes(free)} free: {remedy}"
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Torch with so many threads; None leaves its own number."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
