"""Outputs of several ``generate`` calls, each about some rows of one batch, as the output of one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["AnsweredRows", "join_rows"]


@dataclass(frozen=True)
class AnsweredRows:
    """An output, and which of its rows are the answer to which rows of the batch.

    Attributes:
        out: what ``generate`` gave.
        places: rows of ``out``.
        rows: rows of the batch, as many.
    """

    out: Any
    places: Sequence[int]
    rows: Sequence[int]


def join_rows(answered: Sequence[AnsweredRows], batch: int, pad: int) -> Any:
    """One output of ``batch`` rows; shorter sequences are padded on the right with ``pad``.

    A single call's output about all rows comes back as it is. Of several, ``sequences``, ``scores`` and ``logits`` are joined
    (zeros behind an answer's end); a cache cannot be, and is None.
    """
    answered = [each for each in answered if len(each.rows)]
    if len(answered) == 1 and list(answered[0].places) == list(range(batch)) and len(answered[0].rows) == batch:
        return answered[0].out
    if all(isinstance(each.out, Tensor) for each in answered):
        return _join([(each.out, each) for each in answered], batch, pad)
    out = answered[0].out
    out.sequences = _join([(each.out.sequences, each) for each in answered], batch, pad)
    for name in ("scores", "logits"):
        steps = [getattr(each.out, name, None) for each in answered]
        if all(step is not None for step in steps):
            setattr(out, name, _join_steps(answered, name, batch))
    out.past_key_values = None
    return out


def _join(parts: Sequence[tuple[Tensor, AnsweredRows]], batch: int, fill: float) -> Tensor:
    first = parts[0][0]
    width = max(tensor.shape[1] for tensor, _ in parts)
    joined = first.new_full((batch, width), fill)
    for tensor, each in parts:
        joined[list(each.rows), : tensor.shape[1]] = tensor[list(each.places)]
    return joined


def _join_steps(answered: Sequence[AnsweredRows], name: str, batch: int) -> tuple[Tensor, ...]:
    count = max(len(getattr(each.out, name)) for each in answered)
    found = []
    for step in range(count):
        parts = [(getattr(each.out, name)[step], each) for each in answered if step < len(getattr(each.out, name))]
        found.append(_join(parts, batch, 0.0))
    return tuple(found)
