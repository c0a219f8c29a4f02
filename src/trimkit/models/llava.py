"""LLaVA-1.5 and VipLLaVA: one CLIP tower, 576 patch features, a projector that then runs on kept tokens alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimkit.models._base import Family, ModelInputs
from trimkit.models._signals import attention_of
from trimkit.types import ImageTokens

__all__ = ["Llava"]

_SCORED = -2  # the layer that TRIM compares with the text


class Llava(Family):
    """Features are the projector's input: the tower's ``vision_feature_layer`` without CLS, or several layers side by side.

    With another tower than CLIP (Pixtral in LLaVA's shell) the features after the projector serve, as in ``generic``.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llava", "vipllava")
    title: ClassVar[str] = "LLaVA-1.5, VipLLaVA"
    native: ClassVar[bool] = True
    tested: ClassVar[str] = "keep-all, hand-built, ragged batch, beams, labels, geometry, demo model"

    def encode(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        if not self._before_projector(model):
            return super().encode(model, arguments)
        config = model.config
        layer = arguments.get("vision_feature_layer", _feature_layer(config))
        default = getattr(config, "vision_feature_select_strategy", "default")  # VipLLaVA has no other
        strategy = arguments.get("vision_feature_select_strategy", default)
        tower = self.base(model).vision_tower
        hidden = tower(arguments["pixel_values"], output_hidden_states=True, return_dict=True).hidden_states
        without_cls = strategy == "default"
        layers = [layer] if isinstance(layer, int) else list(layer)
        features = torch.cat([hidden[i][:, 1:] if without_cls else hidden[i] for i in layers], dim=-1)
        side = config.vision_config.image_size // config.vision_config.patch_size
        grid = (side, side) if features.shape[1] == side * side else None
        start = hidden[0].shape[-1] * (layers.index(_SCORED) if _SCORED in layers else 0)
        columns = None if len(layers) == 1 else (start, start + hidden[0].shape[-1])
        return [ImageTokens(features=image, grid=grid, tower_columns=columns) for image in features]

    def project(self, model: Any, features: Sequence[Tensor]) -> list[Tensor]:
        if not self._before_projector(model):
            return super().project(model, features)
        projector = self.base(model).multi_modal_projector
        lengths = [len(image) for image in features]
        if len(set(lengths)) == 1:  # the stock call's shape, so that everything kept is equal to the last bit
            return list(projector(torch.stack(list(features))))
        return list(projector(torch.cat(list(features))).split(lengths))

    def signal_layer(self, model: Any, arguments: ModelInputs) -> Any:
        if not self._before_projector(model):
            return None
        return attention_of(
            self.base(model).vision_tower, arguments.get("vision_feature_layer", _feature_layer(model.config))
        )

    def tower(self, model: Any) -> Any:
        return model.config.vision_config if self._before_projector(model) else None

    def default_clip(self, model: Any) -> str | None:
        vision = model.config.vision_config
        is_large_336 = (vision.model_type, vision.hidden_size, vision.image_size, vision.patch_size) == (
            "clip_vision_model",
            1024,
            336,
            14,
        )
        return "openai/clip-vit-large-patch14-336" if is_large_336 else None

    def _before_projector(self, model: Any) -> bool:
        return bool(model.config.vision_config.model_type == "clip_vision_model")


def _feature_layer(config: Any) -> Any:
    """Which layers the projector gets; VipLLaVA's setting has had two names."""
    found = getattr(config, "vision_feature_layer", None)
    return getattr(config, "vision_feature_layers", None) if found is None else found
