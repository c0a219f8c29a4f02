"""A loop over a fixed number of turns: a plain one where torch runs it, one ``Loop`` node where it is exported to ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["at", "put", "repeat"]

State = tuple[Tensor, ...]


def repeat(step: Callable[[Tensor, State], State], state: State, count: int) -> State:
    """``state`` after ``count`` turns of ``step``, which is given the number of the turn (0-d int64) and the state.

    Shapes and dtypes of the state stay. In a graph the body is there once, however many turns there are.
    """
    if not torch.compiler.is_exporting():
        for turn in range(count):
            state = step(torch.tensor(turn), state)
        return state
    while_loop: Any = torch.while_loop  # typed only in part

    def goes_on(turn: Tensor, *_: Tensor) -> Tensor:
        return turn < count

    def body(turn: Tensor, *held: Tensor) -> State:
        return (turn + 1, *step(turn, held))

    done: State = while_loop(goes_on, body, (torch.tensor(0), *state))
    return done[1:]


def at(values: Tensor, places: Tensor) -> Tensor:
    """``[B, M]`` of ``values`` ``[B, M, N]`` at one place ``[B]`` of the last axis each."""
    return values.gather(2, places[:, None, None].expand(-1, values.shape[1], 1)).squeeze(2)


def put(values: Tensor, turn: Tensor, new: Tensor) -> Tensor:
    """``values`` ``[B, k, ...]`` with ``new`` ``[B, ...]`` as entry number ``turn`` of every row."""
    now = torch.arange(values.shape[1]) == turn
    return torch.where(now.view(1, -1, *[1] * (values.ndim - 2)), new.unsqueeze(1), values)
