"""Gemma 3: each picture, and each crop of pan and scan, is ranked by itself behind the pooling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor
from vllm.model_executor.models import gemma3_mm as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from trimkit.serving.vllm.base_processor import ReducingProcessor
from trimkit.serving.vllm.flat_tiles import FlatTilesModel
from trimkit.serving.vllm.tower_names import with_vision_model

__all__ = ["TrimGemma3", "TrimGemma3Processor"]


class TrimGemma3Processor(ReducingProcessor, stock.Gemma3MultiModalProcessor):
    """Gemma 3's processor, with the question in it. A prompt has the token that begins a picture, and no placeholder yet."""

    def picture_mark(self, config: Any) -> int:
        return int(config.boi_token_index)


@MULTIMODAL_REGISTRY.register_processor(
    TrimGemma3Processor, info=stock.Gemma3ProcessingInfo, dummy_inputs=stock.Gemma3DummyInputsBuilder
)
class TrimGemma3(FlatTilesModel, stock.Gemma3ForConditionalGeneration):
    """Tokens of a picture attend to each other both ways, as far as vLLM's attention backend does that."""

    tile_counts: ClassVar[str] = "num_patches"

    def renamed(self, weights: Any) -> Iterator[tuple[str, Tensor]]:
        return with_vision_model(weights)

    def get_encoder_cudagraph_config(self) -> Any:
        """None for pictures: a graph would run in the place of ``embed_multimodal``."""
        return replace(super().get_encoder_cudagraph_config(), modalities=[])
