"""Tiny random models of real architectures, and batches for them. Structure and exactness only; they answer nothing."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

IMAGE_TOKEN = 99
VOCABULARY = 100
PAD = 0
SIDE = 6  # patches a side
TOKENS = SIDE * SIDE
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
_FORWARD = inspect.signature(LlavaForConditionalGeneration.forward).parameters
CACHE = "cache" if "cache" in _FORWARD else "past_key_values"  # the stock model's argument, by version of transformers


def _vision() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE * 4,
        patch_size=4,
        projection_dim=16,
    )


def _text() -> LlamaConfig:
    # wide, so that greedy answers differ from picture to picture
    return LlamaConfig(**TEXT, initializer_range=0.3)


def llava(seed: int = 0) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=_vision(),
        text_config=_text(),
        image_token_id=IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=PAD,
    )
    return ready(LlavaForConditionalGeneration(config))


def llava_next(seed: int = 0) -> LlavaNextForConditionalGeneration:
    torch.manual_seed(seed)
    config = LlavaNextConfig(
        vision_config=_vision(),
        text_config=_text(),
        image_token_id=IMAGE_TOKEN,
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=PAD,
    )
    return ready(LlavaNextForConditionalGeneration(config))


def qwen2_5_vl(seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE_TOKEN,
        video_token_id=98,
        vision_start_token_id=97,
        vision_end_token_id=96,
    )
    return ready(Qwen2_5_VLForConditionalGeneration(config))


def clip(seed: int = 0) -> CLIPModel:
    torch.manual_seed(seed)
    config = CLIPConfig(
        vision_config=_vision().to_dict(),
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 12,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        projection_dim=16,
    )
    return CLIPModel(config).eval()


Model = TypeVar("Model", bound=PreTrainedModel)


def ready(model: Model) -> Model:
    """In eval mode, with its end and padding tokens, and wider weights: with 0.02 every picture gives the same answer."""
    model.eval()
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = 2
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5 * 1.5)
    return model


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, SIDE * 4, SIDE * 4, generator=generator)


def llava_batch(images_per_row: list[int], seed: int = 0, side: str = "left") -> dict[str, torch.Tensor]:
    """A padded batch: row i holds ``images_per_row[i]`` pictures between random words of random length."""
    generator = torch.Generator().manual_seed(seed)

    def words(low: int, high: int) -> list[int]:
        count = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, 90, (count,), generator=generator).tolist()

    rows = []
    for images in images_per_row:
        row = [1, *words(1, 4)]
        for _ in range(images):
            row += [IMAGE_TOKEN] * TOKENS + words(2, 6)
        rows.append(row + words(2, 8))
    batch = pad_rows(rows, side)
    if sum(images_per_row):
        batch["pixel_values"] = pixels(sum(images_per_row), seed)
    return batch


def pad_rows(rows: list[list[int]], side: str = "left") -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), PAD)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, where] = torch.tensor(row)
        mask[i, where] = 1
    return {"input_ids": ids, "attention_mask": mask}


def single(batch: dict[str, torch.Tensor], row: int, images_per_row: list[int]) -> dict[str, torch.Tensor]:
    """Row ``row`` of a LLaVA batch alone, without padding."""
    real = batch["attention_mask"][row].bool()
    out = {
        "input_ids": batch["input_ids"][row][real].unsqueeze(0),
        "attention_mask": torch.ones(1, int(real.sum()), dtype=torch.long),
    }
    if images_per_row[row]:
        first = sum(images_per_row[:row])
        out["pixel_values"] = batch["pixel_values"][first : first + images_per_row[row]]
    return out


class ToyScorer:
    """A fixed linear read-out of the features, different for each question; stands in for any external scorer."""

    def __init__(self, profile: Any = None) -> None:
        from trimkit import EncoderProfile

        self.profile = profile or EncoderProfile(sign=1)

    def similarity(self, images: Any, queries: Any, *, normalize: bool = False, truncate: bool = False) -> Any:
        out = []
        for image, query in zip(images, queries, strict=True):
            generator = torch.Generator().manual_seed(len(query) + sum(map(ord, query)))
            direction = torch.randn(image.features.shape[-1], generator=generator).to(image.features.device)
            scores = image.features.float() @ direction
            out.append(4.0 * (scores - scores.mean()) / scores.std())
        return out
