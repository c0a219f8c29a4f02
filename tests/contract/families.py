"""The tiny models that every family contract runs on, with a batch and the hand-built counterpart of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor

from tests import tiny
from tests.contract import tiny_families as more

IMAGES_PER_ROW = [1, 2, 0, 1]


@dataclass(frozen=True)
class FamilyCase:
    """One architecture.

    Attributes:
        build: makes the model.
        batch: makes a left- or right-padded batch with ``IMAGES_PER_ROW`` pictures.
        single: cuts one row out of such a batch.
        features: per image, ``[N, D]`` before aggregation, and the projector to apply afterwards.
        other_picture: the batch with other pictures.
        positions: whether the model has 3-D positions.
        deeper: whether later layers are given image features too, so that ``inputs_embeds`` alone cannot say it all.
        text: embeddings ``[n, D]`` of text ids ``[n]``, where the input embeddings alone do not give them.
        stock_beams: whether the stock model takes pictures with beams.
    """

    build: Callable[[], Any]
    batch: Callable[[str], dict[str, Tensor]]
    single: Callable[[dict[str, Tensor], int], dict[str, Tensor]]
    features: Callable[[Any, dict[str, Tensor]], tuple[list[Tensor], Callable[[Tensor], Tensor]]]
    other_picture: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    positions: bool = False
    deeper: bool = False
    text: Callable[[Any, Tensor], Tensor] = lambda model, ids: model.get_input_embeddings()(ids)
    stock_beams: bool = True


def _llava_features(model: Any, batch: dict[str, Tensor]) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    hidden = model.model.vision_tower(batch["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1:]
    return list(hidden), model.model.multi_modal_projector


def _vip_features(model: Any, batch: dict[str, Tensor]) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    states = model.model.vision_tower(batch["pixel_values"], output_hidden_states=True).hidden_states
    layers = getattr(model.config, "vision_feature_layer", None) or model.config.vision_feature_layers
    hidden = torch.cat([states[i][:, 1:] for i in layers], dim=-1)
    return list(hidden), model.model.multi_modal_projector


def _final_features(model: Any, batch: dict[str, Tensor]) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    arguments = {name: batch[name] for name in ENCODED if name in batch}
    features = [
        image for image in model.model.get_image_features(**arguments, return_dict=True).pooler_output if len(image)
    ]
    if arguments.get("pixel_values", torch.zeros(0)).ndim == 5 and "image_sizes" not in arguments:
        tiles = (arguments["pixel_values"] != 0).flatten(2).any(dim=2).sum(dim=1)  # older versions give one by one
        sizes = [int(n) * len(torch.cat(features)) // int(tiles.sum()) for n in tiles if n]
        features = list(torch.cat(features).split(sizes))
    return features, lambda kept: kept


ENCODED = (
    "pixel_values",
    "pixel_values_images",
    "image_sizes",
    "image_grid_thw",
    "spatial_shapes",
    "pixel_attention_mask",
)
_ALONG = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


def _llava_batch(side: str) -> dict[str, Tensor]:
    return tiny.llava_batch(IMAGES_PER_ROW, seed=7, side=side)


def _llava_single(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return tiny.single(batch, row, IMAGES_PER_ROW)


def _rows(counts: list[list[int]], seed: int, around: tuple[list[int], list[int]] = ([], [])) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for images in counts:
        row = [1, 5]
        for count in images:
            row += around[0] + [tiny.IMAGE_TOKEN] * count + around[1] + [6, 7]
        rows.append(row + torch.randint(3, 90, (2 + len(row) % 5,), generator=generator).tolist())
    return rows


_NEXT_SIZES = [[24, 48], [40, 24], [48, 48], [24, 24]]
_NEXT_TILES = [3, 3, 5, 3]  # the rest of a picture's five tiles is padding


def _next_batch(side: str, build: Callable[[], Any] = tiny.llava_next) -> dict[str, Tensor]:
    model = build()
    sizes = torch.tensor(_NEXT_SIZES)
    pixels = torch.randn(4, 5, 3, 24, 24, generator=torch.Generator().manual_seed(3))
    for picture, tiles in zip(pixels, _NEXT_TILES, strict=True):
        picture[tiles:] = 0.0
    with torch.no_grad():
        features = model.model.get_image_features(pixels, sizes, return_dict=True).pooler_output
    lengths = [len(image) for image in features]
    rows = _rows([[lengths[0]], [lengths[1], lengths[2]], [], [lengths[3]]], seed=3)
    return {**tiny.pad_rows(rows, side), "pixel_values": pixels, "image_sizes": sizes}


_GRIDS = [[1, 8, 12], [1, 4, 8], [1, 12, 8], [1, 8, 8]]


def _qwen_batch(side: str) -> dict[str, Tensor]:
    grids = torch.tensor(_GRIDS)
    lengths = [h * w // 4 for _, h, w in _GRIDS]
    patches = int(grids.prod(dim=1).sum())
    pixels = torch.randn(patches, 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(5))
    rows = _rows([[lengths[0]], [lengths[1], lengths[2]], [], [lengths[3]]], seed=5, around=([97], [96]))
    batch = tiny.pad_rows(rows, side)
    types = (batch["input_ids"] == tiny.IMAGE_TOKEN).int()
    return {**batch, "pixel_values": pixels, "image_grid_thw": grids, "mm_token_type_ids": types}


def _cut_row(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    real = batch["attention_mask"][row].bool()
    out = {name: batch[name][row : row + 1, real] for name in _ALONG if name in batch}
    first, count = sum(IMAGES_PER_ROW[:row]), IMAGES_PER_ROW[row]
    if count == 0:
        return out
    if "image_grid_thw" in batch:
        grids = batch["image_grid_thw"]
        patches = batch["pixel_values"].split(grids.prod(dim=1).tolist())
        return {
            **out,
            "pixel_values": torch.cat(patches[first : first + count]),
            "image_grid_thw": grids[first : first + count],
        }
    images = {name: batch[name][first : first + count] for name in ENCODED if name in batch}
    if images.get("pixel_values", torch.zeros(0)).ndim == 5:
        images["pixel_values"] = images["pixel_values"][:, : max(_NEXT_TILES[first : first + count])]
    return {**out, **images}


def _plain_batch(
    build: Callable[[], Any], vision: Callable[[], dict[str, Tensor]]
) -> Callable[[str], dict[str, Tensor]]:
    """Batches of a family whose encoder arguments hold one image a row; token types where the family wants them."""

    def batch(side: str) -> dict[str, Tensor]:
        model, arguments = build(), vision()
        first = next(iter(inspect.signature(model.model.get_image_features).parameters))
        arguments = {first if name == "pixel_values" else name: value for name, value in arguments.items()}
        with torch.no_grad():
            features = model.model.get_image_features(**arguments, return_dict=True).pooler_output
        a, b, c, d = (len(image) for image in features)
        out = {**tiny.pad_rows(_rows([[a], [b, c], [], [d]], seed=11), side), **arguments}
        if "token_type_ids" in inspect.signature(model.forward).parameters:
            out["token_type_ids"] = (out["input_ids"] == tiny.IMAGE_TOKEN).long()
        return out

    return batch


def _squares() -> dict[str, Tensor]:
    return {"pixel_values": tiny.pixels(4, seed=11)}


def _ragged_sizes() -> dict[str, Tensor]:
    sizes = torch.tensor([[24, 16], [8, 24], [16, 16], [24, 24]])
    pixels = tiny.pixels(4, seed=13)
    for picture, (height, width) in zip(pixels, sizes.tolist(), strict=True):
        picture[:, height:], picture[:, :, width:] = 0.0, 0.0
    return {"pixel_values": pixels, "image_sizes": sizes}


def _patch_rows() -> dict[str, Tensor]:
    shapes = torch.tensor([[6, 4], [2, 6], [4, 4], [6, 6]])
    mask = (torch.arange(36) < shapes.prod(dim=1, keepdim=True)).long()
    patches = torch.randn(4, 36, 48, generator=torch.Generator().manual_seed(17)) * mask[..., None]
    return {"pixel_values": patches, "spatial_shapes": shapes, "pixel_attention_mask": mask}


def _tile_batch(side: str) -> dict[str, Tensor]:
    """Rows of tiles with text between them; a row's missing tiles are zeros."""
    pixels = torch.stack([tiny.pixels(2, seed=seed) for seed in range(4)])
    pixels[0, 1:], pixels[2], pixels[3, 1:] = 0.0, 0.0, 0.0
    rows = _rows([[9], [9, 9], [], [9]], seed=19)
    return {**tiny.pad_rows(rows, side), "pixel_values": pixels}


def _tile_row(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    real = batch["attention_mask"][row].bool()
    out = {name: batch[name][row : row + 1, real] for name in _ALONG if name in batch}
    tiles = batch["pixel_values"][row : row + 1, : max(1, IMAGES_PER_ROW[row])]
    return {**out, "pixel_values": tiles} if IMAGES_PER_ROW[row] else out


def other_picture(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    name = next(name for name in ENCODED if name in batch)
    return {**batch, name: (batch[name].flip(-1) * 0.7 + 0.1) * (batch[name] != 0)}


def _plain(build: Callable[[], Any], vision: Callable[[], dict[str, Tensor]]) -> FamilyCase:
    return FamilyCase(build, _plain_batch(build, vision), _cut_row, _final_features, other_picture)


def _next(build: Callable[[], Any]) -> FamilyCase:
    return FamilyCase(build, lambda side: _next_batch(side, build), _cut_row, _final_features, other_picture)


def _qwen(build: Callable[[], Any], *, deeper: bool = False) -> FamilyCase:
    return FamilyCase(build, _qwen_batch, _cut_row, _final_features, other_picture, positions=True, deeper=deeper)


def _llama4_features(model: Any, batch: dict[str, Tensor]) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    hidden = model.get_image_features(batch["pixel_values"], return_dict=True).last_hidden_state
    return list(hidden), model.multi_modal_projector


def _llama4_batch(side: str) -> dict[str, Tensor]:
    rows = _rows([[9], [9, 9], [], [9]], seed=23)
    return {**tiny.pad_rows(rows, side), "pixel_values": tiny.pixels(4, seed=23)}


def _ovis2_batch(side: str) -> dict[str, Tensor]:
    """With the marks that stand around a picture, whose embeddings come with its features."""
    rows = _rows([[9], [9, 9], [], [9]], seed=29, around=([93], [97]))
    return {**tiny.pad_rows(rows, side), "pixel_values": tiny.pixels(4, seed=29)}


def _ovis2_text(model: Any, ids: Tensor) -> Tensor:
    marks = model.config.visual_indicator_token_ids
    first = model.config.vision_config.vocab_size - len(marks)
    table = model.model.visual_embeddings_table.weight
    plain = model.get_input_embeddings()(ids)
    rows = [table[first + marks.index(i)] if i in marks else row for i, row in zip(ids.tolist(), plain, strict=True)]
    return torch.stack(rows)


def _tiles(build: Callable[[], Any]) -> FamilyCase:
    return FamilyCase(build, _tile_batch, _tile_row, _final_features, other_picture)


FAMILIES = {
    "llava": FamilyCase(tiny.llava, _llava_batch, _llava_single, _llava_features, other_picture),
    "llava_next": _next(tiny.llava_next),
    "llava_next_video": _next(more.llava_next_video),
    "llava_onevision": _next(more.llava_onevision),
    "vipllava": FamilyCase(
        more.vipllava, _plain_batch(more.vipllava, _squares), _cut_row, _vip_features, other_picture
    ),
    "video_llava": _plain(more.video_llava, _squares),
    "paligemma": _plain(more.paligemma, _squares),
    "gemma3": _plain(more.gemma3, _squares),
    "internvl": _plain(more.internvl, _squares),
    "aya_vision": _plain(more.aya_vision, _squares),
    "cohere2_vision": _plain(more.cohere2_vision, _squares),
    "mistral3": _plain(more.mistral3, _ragged_sizes),
    "lfm2_vl": _plain(more.lfm2_vl, _patch_rows),
    "llama4": FamilyCase(more.llama4, _llama4_batch, _cut_row, _llama4_features, other_picture, stock_beams=False),
    "ovis2": FamilyCase(more.ovis2, _ovis2_batch, _cut_row, _final_features, other_picture, text=_ovis2_text),
    "idefics3": _tiles(more.idefics3),
    "smolvlm": _tiles(more.smolvlm),
    "qwen2_vl": _qwen(more.qwen2_vl),
    "qwen2_5_vl": _qwen(tiny.qwen2_5_vl),
    "qwen3_vl": _qwen(more.qwen3_vl, deeper=True),
    "glm4v": _qwen(more.glm4v),
}
if Version(transformers.__version__).release < (5, 23):
    del FAMILIES["smolvlm"]  # refused: its forward takes whole tiles only
if Version(transformers.__version__).release == (5, 24, 0):
    del FAMILIES["llama4"]  # refused: the stock model itself does not run
