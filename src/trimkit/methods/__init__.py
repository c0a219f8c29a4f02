"""Reduction methods, one short file each. ``get_method("trim", budget=0.2)`` builds one; a new file adds one."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from trimkit.errors import ConfigError
from trimkit.io.validation import first_fault
from trimkit.methods._base import Method
from trimkit.methods._choosing import ChoosingMethod
from trimkit.methods._planned import PlannedMethod
from trimkit.registry import Registry

__all__ = ["ChoosingMethod", "Method", "PlannedMethod", "get_method", "method_class", "method_classes"]


def _collect(module: ModuleType) -> Iterator[tuple[str, type[Method]]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__:
            yield value.name, value


_registry: Registry[type[Method]] = Registry("method", "trimkit.methods", _collect, group="trimkit.methods")


def method_classes() -> list[tuple[str, type[Method]]]:
    """All registered methods, sorted by name."""
    return _registry.items()


def method_class(name: str) -> type[Method]:
    """The class of the method called ``name``.

    Raises:
        UnknownNameError: there is none; the nearest names are given.
    """
    return _registry.get(name)


def get_method(method: str | Method, **options: Any) -> Method:
    """Build a method from its name, or change options of one.

    Args:
        method: a registered name such as ``trim``, or a ``Method``.
        **options: fields of the method, for example ``budget=0.2``.

    Raises:
        UnknownNameError: no such method.
        ConfigError: an option that the method does not have, or a value that it cannot take.
    """
    cls = type(method) if isinstance(method, Method) else method_class(method)
    fields = {**method.model_dump(exclude_unset=True), **options} if isinstance(method, Method) else options
    try:
        return cls(**fields)
    except ValidationError as error:
        raise ConfigError(_one_line(cls, error)) from None


def _one_line(cls: type[Method], error: ValidationError) -> str:
    name, message, kind = first_fault(error)
    where = name or "options"
    if kind == "extra_forbidden":
        return f"method {cls.name!r} has no option {where!r}: it takes {', '.join(cls.model_fields)}"
    return message if where in message else f"method {cls.name!r}, option {where!r}: {message}"
