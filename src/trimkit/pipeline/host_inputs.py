"""What of a request has to be read on the host, brought there by one transfer before anything runs on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trimkit.core.content import digested
from trimkit.core.transfer import fetch
from trimkit.models import Family, ModelInputs

__all__ = ["on_host"]


def on_host(inputs: ModelInputs, model: Any = None, encoded: Sequence[tuple[Family, ModelInputs]] = ()) -> ModelInputs:
    """``inputs`` with some of its tensors on the host: those with one entry a column, and those of encoders.

    The prompt's ids say where pictures stand and what is asked; the pictures are hashed for the cache of their features. In
    the place of large pixels on a GPU come numbers that tell them apart, of another dtype (``trimkit.core.content.digested``).

    Args:
        inputs: of the model.
        model: the model; needed where there is something to encode.
        encoded: families and the arguments of their encoders, as far as the host reads them; added to what is returned.
    """
    ids = inputs.get("input_ids")
    found = {name: value for _, each in encoded for name, value in each.items() if isinstance(value, Tensor)}
    sums = {name: digested(found[name]) for name in _cut_by_axes(model, encoded) & set(found)}
    found |= {name: value for name, value in sums.items() if value is not None}
    if isinstance(ids, Tensor):
        same = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        found |= {name: value for name, value in same.items() if value.shape == ids.shape}
    return {**inputs, **dict(zip(found, fetch(list(found.values())), strict=True))}


def _cut_by_axes(model: Any, encoded: Sequence[tuple[Family, ModelInputs]]) -> set[str]:
    """Names of pixels that families cut apart by the axes that a digest has."""
    return {family.pixels(model) for family, _ in encoded if family.cuts_by_axes}
