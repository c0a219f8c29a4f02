"""LLaVA-1.5: with a CLIP tower TRIM ranks the projector's input, and the projector runs on kept tokens alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import llava as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from trimkit.core.types import ImageTokens
from trimkit.models import ModelInputs
from trimkit.serving.vllm.base_model import ReducingModel
from trimkit.serving.vllm.base_processor import ReducingProcessor
from trimkit.serving.vllm.tower_names import with_vision_model
from trimkit.serving.vllm.tower_signals import recorded

__all__ = ["TrimLlava", "TrimLlavaProcessor"]


class TrimLlavaProcessor(ReducingProcessor, stock.LlavaMultiModalProcessor):
    """LLaVA's processor, with the question in it."""


def _processor(info: Any, dummy_inputs: Any) -> Any:
    if isinstance(info, stock.LlavaProcessingInfo):
        return TrimLlavaProcessor(info, dummy_inputs)
    return stock._build_llava_or_pixtral_hf_processor(info, dummy_inputs)  # Pixtral in LLaVA's shell, as it is


@MULTIMODAL_REGISTRY.register_processor(
    _processor, info=stock._build_llava_or_pixtral_hf_info, dummy_inputs=stock.LlavaDummyInputsBuilder
)
class TrimLlava(ReducingModel, stock.LlavaForConditionalGeneration):
    """With another tower than CLIP the features behind the projector serve, as in ``trimkit.models.llava``."""

    def renamed(self, weights: Any) -> Iterator[tuple[str, Tensor]]:
        return with_vision_model(weights)

    def encode(self, pictures: Sequence[ModelInputs]) -> list[Tensor]:
        if not self._clip:
            return super().encode(pictures)
        pixels = self.join_pictures(pictures)["pixel_values"]
        return list(self._image_pixels_to_features(self.vision_tower, pixels))

    def encode_with_signals(
        self, pictures: Sequence[ModelInputs], names: frozenset[str]
    ) -> list[tuple[Tensor, dict[str, Tensor]]]:
        numbers = self._reducing.layers
        if not names or numbers is None:
            return super().encode_with_signals(pictures, names)
        pixels = self.join_pictures(pictures)["pixel_values"]
        layers = self.vision_tower.vision_model.encoder.layers
        with recorded(layers, numbers, names) as record:
            states = self.vision_tower(pixels, feature_select_strategy="full")  # with the class token
        own = {"cls_state"} & names
        return [
            (state[1:], {**record.signals(image), **dict.fromkeys(own, state[0])}) for image, state in enumerate(states)
        ]

    def project(self, kept: list[Tensor]) -> list[Tensor]:
        if not self._clip:
            return super().project(kept)
        return list(self.multi_modal_projector(torch.cat(kept)).split([len(each) for each in kept]))

    def projected(self, features: Tensor) -> Tensor:
        return self.project([features])[0] if self._clip else features

    def ranked(self, picture: ModelInputs, features: Tensor) -> list[ImageTokens]:
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        grid = (side, side) if len(features) == side * side else None
        return [ImageTokens(features, grid)]

    @property
    def _clip(self) -> bool:
        return bool(self.config.vision_config.model_type == "clip_vision_model")
