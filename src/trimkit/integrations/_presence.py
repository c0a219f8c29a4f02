"""The shadow of ``forward``: there while the model is attached, and until the last reduced ``generate`` has ended."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from trimkit.integrations._shadow import Shadow

__all__ = ["Presence"]


class Presence:
    """Counts who needs the shadow; safe between threads.

    Args:
        owner, name, handler: as ``Shadow`` takes them.
    """

    def __init__(self, owner: Any, name: str, handler: Callable[..., Any]) -> None:
        self._arguments = (owner, name, handler)
        self._shadow: Shadow | None = None
        self._users = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Put the shadow in place, or count one more who needs it."""
        with self._lock:
            if self._shadow is None:
                self._shadow = Shadow(*self._arguments)
            self._users += 1

    def leave(self) -> None:
        """Undo one ``enter``; the last takes the shadow away."""
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._shadow is not None:
                self._shadow.remove()
                self._shadow = None

    def undo(self, state: dict[str, Any]) -> None:
        """Take the shadow out of a copied ``__dict__``."""
        with self._lock:
            if self._shadow is not None:
                self._shadow.undo(state)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Need the shadow for a while."""
        self.enter()
        try:
            yield
        finally:
            self.leave()
