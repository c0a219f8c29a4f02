"""The argument in which a model takes its key-value cache: ``past_key_values``, or ``cache`` (transformers 5.24 and newer).

A caller may use either name with any version; the stock method is given the one that it takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["cache_name", "cache_of", "cache_of_output", "with_cache", "with_cache_named"]

_NAMES = ("cache", "past_key_values")


def cache_name(function: Callable[..., Any]) -> str | None:
    """The name that ``function``, a model's or a layer's ``forward``, has for its cache; None where it has neither."""
    parameters = inspect.signature(function).parameters
    return next((name for name in _NAMES if name in parameters), None)


def cache_of(arguments: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of a call, or None."""
    return next((arguments[name] for name in _NAMES if arguments.get(name) is not None), None)


def cache_of_output(out: Any) -> Any:
    """The cache that ``generate`` or ``forward`` returns in its output, or None."""
    return next((getattr(out, name) for name in _NAMES if hasattr(out, name)), None)


def with_cache(name: str | None, arguments: Mapping[str, Any], cache: Any) -> dict[str, Any]:
    """The same arguments with another cache, under ``name``; untouched where ``name`` is None."""
    if name is None:
        return dict(arguments)
    return {**{each: value for each, value in arguments.items() if each not in _NAMES}, name: cache}


def with_cache_named(name: str | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments with their cache under ``name``; untouched where there is none, or one under each name."""
    given = [each for each in _NAMES if arguments.get(each) is not None]
    return with_cache(name, arguments, arguments[given[0]]) if len(given) == 1 else dict(arguments)
