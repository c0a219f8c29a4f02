"""Every error trimkit raises on purpose: one line that says what is wrong and what to do.

TrimkitError
├── ConfigError            a setting that cannot be (also a ValueError)
│   └── UnknownNameError   a method, family or preset that is not there; names the nearest
├── InputError             a picture, question or tensor that cannot be used (also a ValueError)
├── ModelError             a checkpoint that cannot be loaded or cannot do what is asked
│   └── UnsupportedError   a model family or call that reduction does not cover, with the reason
└── MissingDependencyError an optional package is needed; names the extra to install

The CLI turns any of them into that one line on stderr and exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "InputError",
    "MissingDependencyError",
    "ModelError",
    "TrimkitError",
    "UnknownNameError",
    "UnsupportedError",
]


class TrimkitError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(TrimkitError, ValueError):
    """A setting has a value it cannot have."""


class UnknownNameError(ConfigError):
    """A name is not registered. The message lists the nearest known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"unknown {kind} {name!r}: {hint}")


class InputError(TrimkitError, ValueError):
    """A picture, a question or a tensor cannot be used."""


class ModelError(TrimkitError):
    """A checkpoint cannot be loaded, or lacks what is asked of it."""


class UnsupportedError(ModelError):
    """Reduction does not cover this model family or this kind of call."""


class MissingDependencyError(TrimkitError):
    """An optional dependency is not installed."""
