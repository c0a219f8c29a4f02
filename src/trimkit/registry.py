"""One typed registry for methods and families: every module of a package is read once, entry points are added.

A new entry is a new file: nothing else names it. Third-party packages add theirs through an entry point group.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Generic, TypeVar

from trimkit.errors import ConfigError, UnknownNameError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to objects, filled on first use.

    Args:
        kind: what an entry is called in messages, for example ``method``.
        package: import path whose modules are all imported; each offers what ``collect`` finds in it.
        collect: yields ``(name, entry)`` pairs of a module.
        group: entry point group of outside entries; each loads to a module. One that cannot be used is named in a warning and
            skipped: what is packaged works whatever else is installed.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        collect: Callable[[ModuleType], Iterator[tuple[str, T]]],
        group: str | None = None,
    ) -> None:
        self._kind = kind
        self._package = package
        self._collect = collect
        self._group = group
        self._entries: dict[str, T] | None = None

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._load())

    def get(self, name: str) -> T:
        """The entry called ``name``.

        Raises:
            UnknownNameError: nothing is; the nearest names are given.
        """
        entries = self._load()
        if name not in entries:
            raise UnknownNameError(self._kind, name, entries)
        return entries[name]

    def find(self, name: str) -> T | None:
        """The entry called ``name``, or None."""
        return self._load().get(name)

    def items(self) -> list[tuple[str, T]]:
        """Name and entry pairs, sorted by name."""
        return sorted(self._load().items())

    def _load(self) -> dict[str, T]:
        if self._entries is None:
            entries: dict[str, T] = {}
            for module in self._modules():
                self._add(entries, module)
            for point in () if self._group is None else entry_points(group=self._group):
                added = dict(entries)
                try:
                    self._add(added, point.load())
                except (Exception, SystemExit) as error:  # outside code fails in ways of its own
                    warnings.warn(self._skipped(point, error), stacklevel=2)
                    continue
                entries = added
            self._entries = entries
        return self._entries

    def _add(self, entries: dict[str, T], module: ModuleType) -> None:
        for name, entry in self._collect(module):
            if name in entries and entries[name] is not entry:
                raise ConfigError(
                    f"{self._kind} {name!r} is defined twice, the second time in {module.__name__}: rename one"
                )
            entries[name] = entry

    def _skipped(self, point: EntryPoint, error: BaseException) -> str:
        owner = f" of {point.dist.name}" if point.dist is not None else ""
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return f"plugin {point.name!r}{owner} ({point.value}) is skipped, it cannot be used ({cause}): mend or uninstall it"

    def _modules(self) -> Iterator[ModuleType]:
        package = importlib.import_module(self._package)
        for info in pkgutil.iter_modules(package.__path__):
            if not info.name.startswith("_"):
                yield importlib.import_module(f"{self._package}.{info.name}")
