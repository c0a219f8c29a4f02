"""LLaVA-OneVision: any-resolution tiles as in LLaVA-NeXT; videos run as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from vllm.model_executor.models import llava_onevision as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from trimkit.serving.vllm.base_processor import ReducingProcessor
from trimkit.serving.vllm.tiles import TiledModel
from trimkit.serving.vllm.tower_names import with_vision_model

__all__ = ["TrimLlavaOnevision", "TrimLlavaOnevisionProcessor"]


class TrimLlavaOnevisionProcessor(ReducingProcessor, stock.LlavaOnevisionMultiModalProcessor):
    """LLaVA-OneVision's processor, with the question in it."""


@MULTIMODAL_REGISTRY.register_processor(
    TrimLlavaOnevisionProcessor,
    info=stock.LlavaOnevisionProcessingInfo,
    dummy_inputs=stock.LlavaOnevisionDummyInputsBuilder,
)
class TrimLlavaOnevision(TiledModel, stock.LlavaOnevisionForConditionalGeneration):
    """A picture is ranked as one image, over all of its tiles."""

    def renamed(self, weights: Any) -> Iterator[tuple[str, Tensor]]:
        return with_vision_model(weights)
