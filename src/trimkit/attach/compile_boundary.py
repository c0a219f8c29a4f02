"""What ``torch.compile`` is to leave alone: choosing tokens is Python over ragged lists, only the stock ``forward`` gains.

Imported when a model is called: the compiler is slow to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from trimkit.attach.forwarding import ReducedForward

__all__ = ["run_forward", "run_untraced"]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _prepare(door: ReducedForward, stock: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return door.prepare(stock, args, kwargs)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _finish(door: ReducedForward, call: Any, out: Any) -> Any:
    return door.finish(call, out)


@torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator,no-untyped-call]
def run_forward(door: ReducedForward, stock: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``stock`` on what ``door`` makes of the arguments; of this, a compiler compiles the stock call alone."""
    call, scope, inputs = _prepare(door, stock, args, kwargs)
    with scope:
        return _finish(door, call, stock(**inputs))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def run_untraced(door: ReducedForward, stock: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same without a compiler: compiled layers would not see hooks that drop tokens in them."""
    return run_forward(door, stock, args, kwargs)
