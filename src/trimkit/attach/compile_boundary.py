"""What ``torch.compile`` is to leave alone: choosing tokens is Python over ragged lists, only the stock ``forward`` gains.

Imported when a model is attached: the compiler is slow to import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["run_forward", "untraced"]


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, run by Python with all that it calls."""
    return torch.compiler.disable(function)  # type: ignore[no-any-return,no-untyped-call]


@torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator,no-untyped-call]
def run_forward(
    prepare: Callable[..., Any],
    finish: Callable[[Any, Any], Any],
    stock: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """``stock`` on what ``prepare`` makes of the arguments; of this, a compiler compiles the stock call alone."""
    call, scope, inputs = prepare(stock, args, kwargs)
    with scope:
        return finish(call, stock(**inputs))
