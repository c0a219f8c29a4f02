"""InternVL (the transformers format): each tile is ranked by itself and keeps its share; videos run as they are."""

from __future__ import annotations

from typing import ClassVar

from vllm.model_executor.models import interns1 as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from trimkit.serving.vllm.base_processor import ReducingProcessor
from trimkit.serving.vllm.flat_tiles import FlatTilesModel

__all__ = ["TrimInternVL", "TrimInternVLProcessor"]


class TrimInternVLProcessor(ReducingProcessor, stock.InternS1MultiModalProcessor):
    """InternVL's processor, with the question in it. The placeholders of a picture's tiles stand in one row."""

    def ranked_lengths(self, total: int) -> list[int]:
        length = int(self.info.get_hf_processor().image_seq_length)
        return [length] * (total // length) if total % length == 0 else [total]


@MULTIMODAL_REGISTRY.register_processor(
    TrimInternVLProcessor, info=stock.InternS1ProcessingInfo, dummy_inputs=stock.InternS1DummyInputsBuilder
)
class TrimInternVL(FlatTilesModel, stock.InternS1ForConditionalGeneration):
    """vLLM serves it by the class of InternS1."""

    tile_counts: ClassVar[str] = "image_num_patches"
