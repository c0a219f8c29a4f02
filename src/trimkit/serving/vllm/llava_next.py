"""LLaVA-NeXT (1.6): any-resolution tiles, ranked together behind the packing, with their newline tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from vllm.model_executor.models import llava_next as stock
from vllm.model_executor.models.llava import LlavaDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from trimkit.serving.vllm.base_processor import ReducingProcessor
from trimkit.serving.vllm.tiles import TiledModel
from trimkit.serving.vllm.tower_names import with_vision_model

__all__ = ["TrimLlavaNext", "TrimLlavaNextProcessor"]


class TrimLlavaNextProcessor(ReducingProcessor, stock.LlavaNextMultiModalProcessor):
    """LLaVA-NeXT's processor, with the question in it."""


@MULTIMODAL_REGISTRY.register_processor(
    TrimLlavaNextProcessor, info=stock.LlavaNextProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class TrimLlavaNext(TiledModel, stock.LlavaNextForConditionalGeneration):
    """A picture is ranked as one image, over all of its tiles."""

    def renamed(self, weights: Any) -> Iterator[tuple[str, Tensor]]:
        return with_vision_model(weights)
