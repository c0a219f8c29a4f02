"""A LLaVA on disk, so small that hundreds of rows take seconds: random weights, 16 tokens a picture, real words."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

from trimkit.demo import demo_model_path

SIDE = 56
TOKENS = 16


def save_small(folder: Path, context: int = 512) -> Path:
    """Write it; ``context`` is the number of positions that its language model has."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 14, **tower},
        text_config={
            "model_type": "llama",
            "vocab_size": 1024,
            "max_position_embeddings": context,
            "initializer_range": 0.3,
            **tower,
        },
        image_token_index=2,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(demo_model_path())
    processor.image_processor.size = {"shortest_edge": SIDE}
    processor.image_processor.crop_size = {"height": SIDE, "width": SIDE}
    processor.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    save_small(Path(sys.argv[1]))
