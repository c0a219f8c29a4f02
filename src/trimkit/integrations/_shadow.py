"""A method shadowed on one instance: callable in its place, with its signature, and removed without a trace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from trimkit.errors import ConfigError

__all__ = ["Shadow"]


class Shadow:
    """Stands in for ``owner.name`` and calls ``handler(stock, *args, **kwargs)``.

    Args:
        owner: the instance. What it had in its own ``__dict__`` (accelerate puts a ``forward`` there) comes back on removal.
        name: the method.
        handler: what is called, with the stock method first.
    """

    def __init__(self, owner: Any, name: str, handler: Callable[..., Any]) -> None:
        self._owner = owner
        self._name = name
        self._handler: Callable[..., Any] | None = handler
        self._own = owner.__dict__.get(name)
        self._stock = getattr(owner, name)
        # generate reads the signatures of forward and of itself; attributes are not taken: another shadow's would be ours
        functools.update_wrapper(self, self._stock, updated=())
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and args[0] is self._owner:  # accelerate unwraps a model by binding what it had wrapped anew
            args = args[1:]
        if self._handler is None:  # removed, but somebody wrapped or kept it
            return self._stock(*args, **kwargs)
        return self._handler(self._stock, *args, **kwargs)

    def remove(self) -> None:
        """Put back what was there; where somebody has wrapped this since, become transparent."""
        self._handler = None
        if self._owner.__dict__.get(self._name) is not self:
            return
        own = self._own
        while isinstance(own, Shadow) and own._handler is None:  # removed while this one was on top of it
            own = own._own
        if own is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, own)

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
