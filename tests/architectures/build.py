"""Tiny random models of every image-text-to-text architecture that the installed transformers knows."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from tests.architectures.recipes import SPECIAL
from tests.architectures.shrink import WIDTH, shrunk

__all__ = ["architectures", "full_size", "tiny_model"]


def architectures() -> dict[str, str]:
    """Model types and the class of each."""
    names = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return {kind: name if isinstance(name, str) else name[0] for kind, name in sorted(names.items())}


def full_size(kind: str) -> Any:
    """The model of the default config, without memory for its weights."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return _class(kind)(CONFIG_MAPPING[kind]())


def tiny_model(kind: str) -> Any:
    """The model of the default config made small, with weights that give every picture another answer."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = CONFIG_MAPPING[kind].from_dict(shrunk(CONFIG_MAPPING[kind]().to_dict(), SPECIAL.get(kind, {})))
        with _timm_towers(config):
            model = _class(kind)(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "gate" not in name:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5)
    return model


class _Tower(nn.Module):
    """Stands in for a tower of timm, which is not installed: a square of 4 x 4 features, or a list with a class token."""

    def __init__(self, width: int, *, squares: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, kernel_size=8, stride=8)
        self.squares = squares

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        hidden = self.patches(pixel_values)
        if not self.squares:
            rows = hidden.flatten(2).transpose(1, 2)
            hidden = torch.cat([rows.mean(dim=1, keepdim=True), rows], dim=1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden)


@contextlib.contextmanager
def _timm_towers(config: Any) -> Iterator[None]:
    """Within, ``AutoModel`` makes the stand-in where a config asks for a tower of timm."""
    vision = getattr(config, "vision_config", None)
    if getattr(vision, "model_type", None) not in {"timm_wrapper", "gemma3n_vision"}:
        yield
        return
    make = AutoModel.from_config

    def made(config: Any, **kwargs: Any) -> Any:
        tower = config.model_type in {"timm_wrapper", "gemma3n_vision"}
        return _Tower(WIDTH, squares=kind != "perception_lm") if tower else make(config, **kwargs)

    kind = config.model_type
    with mock.patch.object(AutoModel, "from_config", made):
        yield


def _class(kind: str) -> Any:
    return getattr(transformers, architectures()[kind])
