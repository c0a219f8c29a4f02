"""Names of a function's parameters, looked up once: reading a signature costs more than all that a call needs it for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["argument_names"]

_known: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()


def argument_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """As in the function's signature, in order, ``self`` of a bound method left out."""
    owner: Any = getattr(function, "__func__", None)
    if owner is None:
        return tuple(inspect.signature(function).parameters)
    names = _known.get(owner)
    if names is None:
        names = _known[owner] = tuple(inspect.signature(function).parameters)
    return names
