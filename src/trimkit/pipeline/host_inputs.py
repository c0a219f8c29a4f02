"""What of a request has to be read on the host, brought there by one transfer before anything runs on the device."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from trimkit.core.transfer import fetch
from trimkit.models import ModelInputs

__all__ = ["on_host"]


def on_host(inputs: ModelInputs, arguments: Iterable[ModelInputs] = ()) -> ModelInputs:
    """``inputs`` with some of its tensors on the host: those with one entry a column, and those of ``arguments``.

    The prompt's ids say where pictures stand and what is asked; the pictures are hashed for the cache of their features.

    Args:
        inputs: of the model.
        arguments: of its encoders, as far as the host reads them; added to what is returned.
    """
    ids = inputs.get("input_ids")
    found = {name: value for each in arguments for name, value in each.items() if isinstance(value, Tensor)}
    if isinstance(ids, Tensor):
        same = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        found |= {name: value for name, value in same.items() if value.shape == ids.shape}
    return {**inputs, **dict(zip(found, fetch(list(found.values())), strict=True))}
