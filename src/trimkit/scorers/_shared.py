"""Values that are built once and shared for as long as anybody uses them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

__all__ = ["Shared"]

V = TypeVar("V")


class _Building:
    """The lock of one value that is being built."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Shared(Generic[V]):
    """Values by key, held weakly: with its last user a value goes. Thread-safe; other keys do not wait while one is built."""

    def __init__(self) -> None:
        self._values: WeakValueDictionary[Hashable, V] = WeakValueDictionary()
        self._building: WeakValueDictionary[Hashable, _Building] = WeakValueDictionary()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, build: Callable[[], V]) -> V:
        """The value of ``key``; where nobody holds one, what ``build`` gives. Of threads that ask at once, one builds."""
        with self._lock:
            building = self._building.setdefault(key, _Building())
        with building.lock:
            with self._lock:
                found = self._values.get(key)
            if found is None:
                found = build()
                with self._lock:
                    self._values[key] = found
            return found
