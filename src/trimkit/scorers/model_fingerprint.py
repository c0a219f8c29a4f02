"""Which model a fitted scorer belongs to: a few of the vision half's weights, compared as numbers.

Numbers and not a digest, so that a model that is loaded in half precision is still the one it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["fingerprint_of", "is_same_model"]

_TENSORS = 12
_VALUES = 8  # of each tensor
_CLOSE = 0.02  # bfloat16 is exact to 0.4 %
_LANGUAGE = ("language_model", "lm_head", "embed_tokens")


def fingerprint_of(model: Any) -> dict[str, list[float]]:
    """Values of weights between the pixels and the language model, by name and shape of the tensor.

    Args:
        model: a transformers vision-language model; what is on the ``meta`` device, or not of floats, is left out.
    """
    tensors = sorted(_vision_tensors(model), key=lambda each: hashlib.sha256(each[0].encode()).hexdigest())
    return {key: _sample(weight) for key, weight in tensors[:_TENSORS]}


def is_same_model(model: Any, fingerprint: dict[str, list[float]]) -> bool:
    """Whether a model has these values. Weights on the ``meta`` device have none, and are compared by name and shape."""
    present = {key: weight for key, weight in _vision_tensors(model, loaded=False) if key in fingerprint}
    if set(present) != set(fingerprint):
        return False
    readable = {key: weight for key, weight in present.items() if not weight.is_meta}
    return all(_close(_sample(weight), fingerprint[key]) for key, weight in readable.items())


def _vision_tensors(model: Any, *, loaded: bool = True) -> Iterator[tuple[str, Tensor]]:
    for name, weight in model.named_parameters():
        outside = not any(part in name for part in _LANGUAGE)
        if outside and weight.is_floating_point() and weight.ndim > 0 and not (loaded and weight.is_meta):
            shape = "x".join(map(str, weight.shape))
            yield f"{'.'.join(name.split('.')[-5:])} {shape}", weight.detach()


def _sample(weight: Tensor) -> list[float]:
    flat = weight.reshape(-1)
    at = torch.linspace(0, len(flat) - 1, min(_VALUES, len(flat)), dtype=torch.float64).long()
    return [float(f"{value:.4g}") for value in flat[at.to(flat.device)].float().tolist()]


def _close(found: list[float], wanted: list[float]) -> bool:
    pairs = zip(found, wanted, strict=False)
    return len(found) == len(wanted) and all(abs(a - b) <= _CLOSE * max(abs(a), abs(b)) + 1e-4 for a, b in pairs)
