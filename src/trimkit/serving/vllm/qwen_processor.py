"""The API server's half of the Qwen families: beside the question, whether original positions stay within the model's range."""

from __future__ import annotations

from typing import Any

from trimkit.errors import ConfigError
from trimkit.serving.vllm.base_processor import ReducingProcessor
from trimkit.serving.vllm.qwen_base import asks_for_positions

__all__ = ["QwenProcessor"]


class QwenProcessor(ReducingProcessor):
    """Reduced pictures leave room for more of them, while the text behind each goes on at its original position."""

    def unable(self) -> str:
        return "" if asks_for_positions() else "vLLM's CPU runner does not ask this family for positions anew"

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        out = super().apply(inputs, timing_ctx)
        spans = out["mm_placeholders"].get("image", [])
        if spans:
            text = len(out["prompt_token_ids"]) - sum(span.length for span in spans)
            reach = text + sum(self._advance(inputs, i, span.length) for i, span in enumerate(spans))
            most = int(self.info.get_hf_config().get_text_config().max_position_embeddings)
            if reach > most:
                raise ConfigError(
                    f"the prompt's original positions reach {reach}, beyond the model's {most}: give fewer or smaller "
                    "pictures (a reduced picture takes as many positions as a whole one)"
                )
        return out

    def _advance(self, inputs: Any, item: int, length: int) -> int:
        """Positions that a picture takes: the longer side of its grid."""
        try:
            size = inputs.mm_data_items["image"].get_image_size(item)
        except Exception:  # given as embeddings, or named by a uuid alone
            return int(length)
        processor = self.info.get_hf_processor().image_processor
        resized, _ = self.info._get_vision_info(
            image_width=size.width, image_height=size.height, image_processor=processor, mm_kwargs={}
        )
        vision = self.info.get_hf_config().vision_config
        return int(max(resized.width, resized.height) // (vision.patch_size * vision.spatial_merge_size))
