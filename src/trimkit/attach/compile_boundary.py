"""What ``torch.compile`` is to leave alone: choosing tokens is Python over ragged lists, only the stock ``forward`` gains.

Imported when a model is called: the compiler is slow to import.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

__all__ = ["Door", "run_forward", "run_untraced"]


class Door(Protocol):
    """What stands in for a ``forward``: see ``trimkit.attach.forwarding``."""

    def prepare(self, stock: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call, the context to run it in, and the inputs of stock ``forward``."""
        ...

    def finish(self, call: Any, out: Any) -> Any:
        """The output as the caller gets it."""
        ...


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _prepare(door: Door, stock: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return door.prepare(stock, args, kwargs)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _finish(door: Door, call: Any, out: Any) -> Any:
    return door.finish(call, out)


@torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator,no-untyped-call]
def run_forward(door: Door, stock: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``stock`` on what ``door`` makes of the arguments; of this, a compiler compiles the stock call alone."""
    call, scope, inputs = _prepare(door, stock, args, kwargs)
    with scope:
        return _finish(door, call, stock(**inputs))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def run_untraced(door: Door, stock: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same without a compiler: compiled layers would not see hooks that drop tokens in them."""
    return run_forward(door, stock, args, kwargs)
