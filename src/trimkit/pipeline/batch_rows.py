"""Some rows of a batch of prompts, with their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trimkit.models import Family, ModelInputs
from trimkit.pipeline.media import given_media

__all__ = ["take_rows"]


def take_rows(
    family: Family, model: Any, inputs: ModelInputs, rows: Sequence[int], owners: Sequence[tuple[str, int]]
) -> ModelInputs | None:
    """The inputs of ``rows`` alone, as if the others had not been asked.

    Args:
        family, model: the model and what serves it.
        inputs: of a call, ``input_ids`` ``[B, L]`` among them; a question for every row is taken along, too.
        rows: which, ascending.
        owners: medium and batch row of every image and video, in the order of the prompts.

    Returns:
        New inputs; None where the pictures of a row cannot be told from the others'.
    """
    batch, encoded, taken = len(inputs["input_ids"]), set[str](), ModelInputs()
    for medium in given_media(family, model, inputs):
        arguments = medium.encoder_arguments(model, inputs)
        mine = [row for kind, row in owners if kind == medium.medium]
        parts = medium.split(model, arguments) if medium.separable(model, arguments) else []
        if len(parts) != len(mine):
            return None
        encoded |= set(arguments)
        wanted = [part for part, row in zip(parts, mine, strict=True) if row in set(rows)]
        taken |= medium.join(wanted) if wanted else {}
    rest = {name: _rows(name, value, rows, batch) for name, value in inputs.items() if name not in encoded}
    return {**rest, **taken}


def _rows(name: str, value: Any, rows: Sequence[int], batch: int) -> Any:
    if name == "query" and not isinstance(value, str) and isinstance(value, Sequence):
        return [value[row] for row in rows]
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if name == "position_ids" and value.ndim == 3:  # [axes, B, L]
        return value[:, list(rows)]
    return value[list(rows)] if value.ndim >= 2 and len(value) == batch else value
