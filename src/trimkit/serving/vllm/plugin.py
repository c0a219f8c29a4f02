"""The entry point: puts the reducing classes in the place of vLLM's stock ones, by name, so that nothing heavy is imported."""

from __future__ import annotations

__all__ = ["ARCHITECTURES", "register"]

_HERE = "trimkit.serving.vllm"
ARCHITECTURES = {
    "LlavaForConditionalGeneration": f"{_HERE}.llava:TrimLlava",
    "LlavaNextForConditionalGeneration": f"{_HERE}.llava_next:TrimLlavaNext",
    "LlavaOnevisionForConditionalGeneration": f"{_HERE}.llava_onevision:TrimLlavaOnevision",
    "Qwen2VLForConditionalGeneration": f"{_HERE}.qwen2_vl:TrimQwen2VL",
    "Qwen2_5_VLForConditionalGeneration": f"{_HERE}.qwen2_5_vl:TrimQwen25VL",
    "Qwen3VLForConditionalGeneration": f"{_HERE}.qwen3_vl:TrimQwen3VL",
    "InternVLForConditionalGeneration": f"{_HERE}.internvl:TrimInternVL",
    "Gemma3ForConditionalGeneration": f"{_HERE}.gemma3:TrimGemma3",
}
"""Architecture in a checkpoint's config.json, and the class that serves it."""


def register() -> None:
    """Called by vLLM in every process of a server, before a model is looked up. Several calls do no harm."""
    from vllm import ModelRegistry

    for architecture, address in ARCHITECTURES.items():
        ModelRegistry.register_model(architecture, address)
