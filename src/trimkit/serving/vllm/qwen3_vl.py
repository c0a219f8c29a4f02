"""Qwen3-VL: original 3-D positions, and the features for deeper layers (deep-stack) of the same tokens."""

from __future__ import annotations

from vllm.model_executor.models import qwen3_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from trimkit.serving.vllm.qwen_base import QwenModel
from trimkit.serving.vllm.qwen_processor import QwenProcessor

__all__ = ["TrimQwen3VL", "TrimQwen3VLProcessor"]


class TrimQwen3VLProcessor(QwenProcessor, stock.Qwen3VLMultiModalProcessor):
    """Qwen3-VL's processor, with the question in it."""


@MULTIMODAL_REGISTRY.register_processor(
    TrimQwen3VLProcessor, info=stock.Qwen3VLProcessingInfo, dummy_inputs=stock.Qwen3VLDummyInputsBuilder
)
class TrimQwen3VL(QwenModel, stock.Qwen3VLForConditionalGeneration):
    """vLLM puts the features for deeper layers behind those of the first: all are cut alike, the first are ranked."""

    @property
    def _width(self) -> int:
        return int(self.visual_dim + self.multiscale_dim)
