"""Which model a fitted scorer belongs to: a few weights of both halves, compared as numbers.

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
_LANGUAGE = "language_model"
_WORDS = ("lm_head", "embed_tokens")
_WITHIN = "within: "  # marks keys of the language model
_WITHIN_TENSORS = 6


def fingerprint_of(model: Any) -> dict[str, list[float]]:
    """Values of weights before the language model and in its layers, by name and shape of the tensor.

    Args:
        model: a transformers vision-language model; what is on the ``meta`` device, or not of floats, is left out.
    """
    halves = ((_before(model), _TENSORS), (_within(model), _WITHIN_TENSORS))
    return {key: value for half, most in halves for key, value in _samples(half, most)}


def is_same_model(model: Any, fingerprint: dict[str, list[float]]) -> bool:
    """Whether a model has these values. Weights on the ``meta`` device have none, and are compared by name and shape.

    Where an engine has packed the language model's weights under other names or in other types, those before it decide.
    """
    before, within = _before(model), _within(model)
    wanted = {key for key in fingerprint if not key.startswith(_WITHIN)}
    if not wanted <= set(before):
        return False
    found = {key: (before | within)[key] for key in fingerprint if key in before or key in within}
    return all(weight.is_meta or _close(_sample(weight), fingerprint[key]) for key, weight in found.items())


def _before(model: Any) -> dict[str, Tensor]:
    return {key: weight for key, weight, language in _tensors(model) if not language}


def _within(model: Any) -> dict[str, Tensor]:
    return {f"{_WITHIN}{key}": weight for key, weight, language in _tensors(model) if language}


def _tensors(model: Any) -> Iterator[tuple[str, Tensor, bool]]:
    """Key, weight, and whether it is of the language model's layers; neither tables of words nor bytes that stand for more."""
    for name, weight in model.named_parameters():
        language = _LANGUAGE in name
        readable = weight.is_floating_point() and weight.ndim > 0 and not (language and weight.element_size() == 1)
        if readable and not any(part in name for part in _WORDS):
            yield f"{'.'.join(name.split('.')[-5:])} {'x'.join(map(str, weight.shape))}", weight.detach(), language


def _samples(half: dict[str, Tensor], most: int) -> Iterator[tuple[str, list[float]]]:
    keys = sorted(
        (key for key, weight in half.items() if not weight.is_meta),
        key=lambda key: hashlib.sha256(key.encode()).hexdigest(),
    )
    yield from ((key, _sample(half[key])) for key in keys[:most])


def _sample(weight: Tensor) -> list[float]:
    flat = weight.reshape(-1)
    at = torch.linspace(0, len(flat) - 1, min(_VALUES, len(flat)), dtype=torch.float64).long()
    return [float(f"{value:.4g}") for value in flat[at.to(flat.device)].float().tolist()]


def _close(found: list[float], wanted: list[float]) -> bool:
    pairs = zip(found, wanted, strict=False)
    return len(found) == len(wanted) and all(abs(a - b) <= _CLOSE * max(abs(a), abs(b)) + 1e-4 for a, b in pairs)
