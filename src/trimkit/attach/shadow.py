"""A method shadowed on one instance: callable in its place, with its signature, and removed without a trace."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from trimkit.errors import ConfigError

__all__ = ["SHADOWING", "Shadow", "SharedShadow"]


SHADOWING = threading.RLock()  # shadows are put in place and removed one at a time
_parked: WeakKeyDictionary[Any, dict[str, Shadow]] = WeakKeyDictionary()


class Shadow:
    """Stands in for ``owner.name`` and calls ``handler(stock, *args, **kwargs)``.

    Args:
        owner: the instance. What it had in its own ``__dict__`` (accelerate puts a ``forward`` there) comes back on removal.
        name: the method.
        handler: what is called, with the stock method first.
    """

    def __init__(self, owner: Any, name: str, handler: Callable[..., Any]) -> None:
        self._name = name
        self._place(owner, handler)

    @classmethod
    def placed(cls, owner: Any, name: str, handler: Callable[..., Any]) -> Shadow:
        """A shadow: the one that was there before, if it was parked. Compiled code is tied to it, and is used again."""
        with SHADOWING:
            shadow = _parked.get(owner, {}).pop(name, None)
            if shadow is None:
                return cls(owner, name, handler)
            shadow._place(owner, handler)
            return shadow

    def _place(self, owner: Any, handler: Callable[..., Any]) -> None:
        with SHADOWING:
            self._owner = owner
            self._handler: Callable[..., Any] | None = handler
            self._own = owner.__dict__.get(self._name)
            self._stock = getattr(owner, self._name)
            # generate reads the signatures of forward and of itself; attributes are not taken: another shadow's would be ours
            functools.update_wrapper(self, self._stock, updated=())
            self.__dict__.pop("__signature__", None)
            with contextlib.suppress(TypeError, ValueError):  # some built-in methods have none
                # Held: read at every call, it would cost more than choosing.
                self.__dict__["__signature__"] = inspect.signature(self._stock)
            setattr(owner, self._name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and args[0] is self._owner:  # accelerate unwraps a model by binding what it had wrapped anew
            args = args[1:]
        handler = self._handler  # once: another thread may remove it
        if handler is None:  # removed, but somebody wrapped or kept it
            return self._stock(*args, **kwargs)
        return handler(self._stock, *args, **kwargs)

    def remove(self, *, park: bool = False) -> None:
        """Put back what was there; where somebody has wrapped this since, become transparent.

        Args:
            park: whether to be used again when the same method of the same owner is shadowed next; it then holds its owner
                weakly.
        """
        with SHADOWING:
            self._handler = None
            owner = self._owner
            if owner.__dict__.get(self._name) is not self:
                return
            own = self._own
            while isinstance(own, Shadow) and own._handler is None:  # removed while this one was on top of it
                own = own._own
            if own is None:
                delattr(owner, self._name)
            else:
                setattr(owner, self._name, own)
            if park and self._own is None:
                self._owner, self._stock = None, _weakly(self._stock)
                # Not taken away: another thread may be reading the signature of what it got before.
                self.__dict__["__wrapped__"] = self._stock
                _parked.setdefault(owner, {})[self._name] = self

    def undo(self, state: dict[str, Any]) -> None:
        """Put back what was there in ``state``, a copy of the owner's ``__dict__``."""
        if state.get(self._name) is not self:
            return
        if self._own is None:
            del state[self._name]
        else:
            state[self._name] = self._own

    def __deepcopy__(self, memo: Any) -> Any:
        """Refuse: the copy's method would run the original. A copy of the owner never comes here, see ``Attachment``.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("what wraps a method of an attached model cannot be copied or pickled: detach it first")

    def __reduce__(self) -> Any:
        """Refuse pickling, as copying.

        Raises:
            ConfigError: always.
        """
        return self.__deepcopy__(None)


def _weakly(method: Any) -> Callable[..., Any]:
    """A bound method that does not keep its owner alive."""
    reference = weakref.WeakMethod(method)

    def call(*args: Any, **kwargs: Any) -> Any:
        found = reference()
        if found is None:
            raise ConfigError("the model whose method this was is gone")
        return found(*args, **kwargs)

    known: Any = call
    known.__signature__ = inspect.signature(method)
    return call


class SharedShadow:
    """A shadow that is there while somebody needs it: it counts who does; safe between threads.

    Args:
        owner, name, handler: as ``Shadow`` takes them.
    """

    def __init__(self, owner: Any, name: str, handler: Callable[..., Any]) -> None:
        self._arguments = (owner, name, handler)
        self._shadow: Shadow | None = None
        self._users = 0

    def enter(self) -> None:
        """Put the shadow in place, or count one more who needs it."""
        with SHADOWING:
            if self._shadow is None:
                self._shadow = Shadow.placed(*self._arguments)
            self._users += 1

    def leave(self) -> None:
        """Undo one ``enter``; the last takes the shadow away."""
        with SHADOWING:
            self._users -= 1
            if self._users == 0 and self._shadow is not None:
                self._shadow.remove(park=True)
                self._shadow = None

    def undo(self, state: dict[str, Any]) -> None:
        """Take the shadow out of a copied ``__dict__``."""
        with SHADOWING:
            if self._shadow is not None:
                self._shadow.undo(state)
