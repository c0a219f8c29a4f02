"""Qwen2-VL: features behind the merger, original 3-D positions."""

from __future__ import annotations

from vllm.model_executor.models import qwen2_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from trimkit.serving.vllm.qwen_base import QwenModel
from trimkit.serving.vllm.qwen_processor import QwenProcessor

__all__ = ["TrimQwen2VL", "TrimQwen2VLProcessor"]


class TrimQwen2VLProcessor(QwenProcessor, stock.Qwen2VLMultiModalProcessor):
    """Qwen2-VL's processor, with the question in it."""


@MULTIMODAL_REGISTRY.register_processor(
    TrimQwen2VLProcessor, info=stock.Qwen2VLProcessingInfo, dummy_inputs=stock.Qwen2VLDummyInputsBuilder
)
class TrimQwen2VL(QwenModel, stock.Qwen2VLForConditionalGeneration):
    """A picture is one grid of merged patches."""
