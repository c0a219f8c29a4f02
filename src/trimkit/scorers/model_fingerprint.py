"""Which model a fitted scorer belongs to: a few weights of both halves, compared as numbers.

Numbers and not a digest, so that a model that is loaded in half precision is still the one it was.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

__all__ = ["fingerprint_of", "is_same_model"]

_TENSORS = 12
_VALUES = 8  # of each tensor
_CLOSE = 0.02  # bfloat16 is exact to 0.4 %
_LANGUAGE = "language_model"
_WORDS = ("lm_head", "embed_tokens")
_WITHIN = "within: "  # marks keys of the language model
_WITHIN_TENSORS = 6


def fingerprint_of(model: Any) -> dict[str, list[float]]:
    """Values of weights before the language model and in its layers, by name and shape of the tensor.

    Args:
        model: a transformers vision-language model; what is on the ``meta`` device, or not of floats, is left out.
    """
    tensors = {key: weight for key, weight in _tensors(model).items() if not weight.is_meta}
    keys = sorted(tensors, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    before = [key for key in keys if not key.startswith(_WITHIN)][:_TENSORS]
    within = [key for key in keys if key.startswith(_WITHIN)][:_WITHIN_TENSORS]
    return {key: _sample(tensors[key]) for key in (*before, *within)}


def is_same_model(model: Any, fingerprint: dict[str, list[float]]) -> bool:
    """Whether a model has these values. Weights on the ``meta`` device have none, and are compared by name and shape.

    Where an engine has packed the language model's weights under other names or in other types, those before it decide.
    """
    present = _tensors(model)
    if any(key not in present for key in fingerprint if not key.startswith(_WITHIN)):
        return False
    known = {key: present[key] for key in fingerprint if key in present}
    return all(weight.is_meta or _close(_sample(weight), fingerprint[key]) for key, weight in known.items())


def _tensors(model: Any) -> dict[str, Tensor]:
    """By name and shape, those of the language model's layers marked; neither tables of words nor bytes that stand for more."""
    found = {}
    for name, weight in model.named_parameters():
        language = _LANGUAGE in name
        readable = weight.is_floating_point() and weight.ndim > 0 and not (language and weight.element_size() == 1)
        if readable and not any(part in name for part in _WORDS):
            key = f"{'.'.join(name.split('.')[-5:])} {'x'.join(map(str, weight.shape))}"
            found[f"{_WITHIN if language else ''}{key}"] = weight.detach()
    return found


def _sample(weight: Tensor) -> list[float]:
    flat = weight.reshape(-1)
    at = torch.linspace(0, len(flat) - 1, min(_VALUES, len(flat)), dtype=torch.float64).long()
    return [float(f"{value:.4g}") for value in flat[at.to(flat.device)].float().tolist()]


def _close(found: list[float], wanted: list[float]) -> bool:
    pairs = zip(found, wanted, strict=False)
    return len(found) == len(wanted) and all(abs(a - b) <= _CLOSE * max(abs(a), abs(b)) + 1e-4 for a, b in pairs)
