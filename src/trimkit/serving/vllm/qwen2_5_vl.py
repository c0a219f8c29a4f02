"""Qwen2.5-VL: features behind the merger, original 3-D positions."""

from __future__ import annotations

from vllm.model_executor.models import qwen2_5_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from trimkit.serving.vllm.qwen_base import QwenModel
from trimkit.serving.vllm.qwen_processor import QwenProcessor

__all__ = ["TrimQwen25VL", "TrimQwen25VLProcessor"]


class TrimQwen25VLProcessor(QwenProcessor, stock.Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL's processor, with the question in it."""


@MULTIMODAL_REGISTRY.register_processor(
    TrimQwen25VLProcessor, info=stock.Qwen2_5_VLProcessingInfo, dummy_inputs=stock.Qwen2_5_VLDummyInputsBuilder
)
class TrimQwen25VL(QwenModel, stock.Qwen2_5_VLForConditionalGeneration):
    """A picture is one grid of merged patches."""
