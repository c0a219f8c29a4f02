"""Every signal that any registered method asks for, made up of an image's features, so that a row is the same in any batch."""

from __future__ import annotations

import torch
from torch import Tensor

from trimkit.core.signals import parse_signal
from trimkit.core.types import ImageTokens
from trimkit.methods import method_classes

__all__ = ["made_up", "with_signals"]


def made_up(features: Tensor) -> dict[str, Tensor]:
    """By name, for one image ``[N, D]``; widths are D."""
    names = frozenset[str]().union(*(cls().asked_signals for _, cls in method_classes()))
    return {name: _signal(name, features) for name in sorted(names)}


def _signal(name: str, features: Tensor) -> Tensor:
    kind, count = parse_signal(name).kind, len(features)
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    turned = torch.randn(features.shape[1], features.shape[1], generator=generator)
    if kind in ("cls_attention", "cls_attention_wide", "received"):
        return (features @ turned[0]).softmax(dim=0)
    if kind == "alive":
        return torch.ones(count, dtype=torch.bool)
    if kind == "cls_state":
        return features.mean(dim=0)
    if kind.endswith("places"):
        return torch.arange(5) + (count if "text" in kind else 0) if "text" in kind else torch.arange(count)
    if kind in ("words", "clip_text") or "text" in kind:
        return turned[:5]
    return features @ turned


def with_signals(image: ImageTokens) -> ImageTokens:
    """The image with all of them."""
    signals = made_up(image.features)
    attention, keys = signals.pop("cls_attention", image.cls_attention), signals.pop("keys", image.keys)
    return ImageTokens(
        image.features, image.grid, image.key, cls_attention=attention, keys=keys, signals={**signals, **image.signals}
    )
