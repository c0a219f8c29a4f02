"""Settings by name, for what is measured often."""

from __future__ import annotations

from typing import Any

from trimkit.errors import ConfigError
from trimkit.loading import pick_device

__all__ = ["PAPER", "PRESETS", "preset"]

PAPER = "the paper (arXiv 2409.10994): 79 % fewer image tokens, 67 % less time, 30 % less memory"

_ASK = {"random": "clip-l-336", "device": "cpu", "dtype": "float32"}
_CLAIM = {"random": "llava-1.5-7b", "new_tokens": (5, 128)}
_METHODS = {"methods": ("trim",), "budgets": ("121",)}
_SHALLOW = {"layers": 2, "repeats": 3}  # what a CPU has the memory and the time for; the rest is extrapolated

PRESETS = ("ask", "claim")


def preset(name: str | None, device: str | None = None, *, own_methods: bool = False) -> dict[str, Any]:
    """Fields of ``Settings``.

    Args:
        name: None for none.
        device: as in ``Settings``; None is its default.
        own_methods: leave out methods and budgets, which a config brings.

    Raises:
        ConfigError: no such preset, or no such device.
    """
    if name is None:
        return {}
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is not known: give one of {', '.join(PRESETS)}, or options alone")
    if name == "ask":
        return dict(_ASK)
    methods = {} if own_methods else _METHODS
    return {**_CLAIM, **methods, **(_SHALLOW if pick_device(device or "auto").type == "cpu" else {})}
