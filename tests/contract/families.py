"""The tiny models that every family contract runs on, with a batch and the hand-built counterpart of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests import tiny
from trimkit import ImageReport

IMAGES_PER_ROW = [1, 2, 0, 1]


@dataclass(frozen=True)
class FamilyCase:
    """One architecture.

    Attributes:
        build: makes the model.
        batch: makes a left- or right-padded batch with ``IMAGES_PER_ROW`` pictures.
        single: cuts one row out of such a batch.
        features: per image, ``[N, D]`` before aggregation, and the projector to apply afterwards.
    """

    build: Callable[[], Any]
    batch: Callable[[str], dict[str, Tensor]]
    single: Callable[[dict[str, Tensor], int], dict[str, Tensor]]
    features: Callable[[Any, dict[str, Tensor]], tuple[list[Tensor], Callable[[Tensor], Tensor]]]
    other_picture: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    positions: bool = False


def _llava_features(model: Any, batch: dict[str, Tensor]) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    hidden = model.model.vision_tower(batch["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1:]
    return list(hidden), model.model.multi_modal_projector


def _final_features(model: Any, batch: dict[str, Tensor]) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    names = ("pixel_values", "image_sizes", "image_grid_thw")
    arguments = {name: batch[name] for name in names if name in batch}
    return list(model.model.get_image_features(**arguments, return_dict=True).pooler_output), lambda kept: kept


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


def _next_batch(side: str) -> dict[str, Tensor]:
    model = tiny.llava_next()
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
    along = ("input_ids", "attention_mask", "mm_token_type_ids")
    out = {name: batch[name][row : row + 1, real] for name in along if name in batch}
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
    images = {name: batch[name][first : first + count] for name in ("pixel_values", "image_sizes")}
    images["pixel_values"] = images["pixel_values"][:, : max(_NEXT_TILES[first : first + count])]
    return {**out, **images}


def _other_picture(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**batch, "pixel_values": batch["pixel_values"].flip(-1) * 0.7 + 0.1}


FAMILIES = {
    "llava": FamilyCase(tiny.llava, _llava_batch, _llava_single, _llava_features, _other_picture),
    "llava_next": FamilyCase(tiny.llava_next, _next_batch, _cut_row, _final_features, _other_picture),
    "qwen2_5_vl": FamilyCase(tiny.qwen2_5_vl, _qwen_batch, _cut_row, _final_features, _other_picture, positions=True),
}


def hand_built(
    case: FamilyCase,
    model: Any,
    batch: dict[str, Tensor],
    images: tuple[ImageReport, ...],
    labels: Tensor | None = None,
) -> dict[str, Tensor]:
    """The reduced batch made by hand as ``inputs_embeds``: no code of the library, only its chosen indices."""
    features, project = case.features(model, batch)
    embed = model.get_input_embeddings()
    positions = None
    if case.positions:
        positions, _ = model.model.get_rope_index(
            batch["input_ids"],
            mm_token_type_ids=batch["mm_token_type_ids"],
            image_grid_thw=batch["image_grid_thw"],
            attention_mask=batch["attention_mask"],
        )
    rows, row_positions, at = [], [], 0
    for row in range(len(batch["input_ids"])):
        pieces, columns, column = [], [], 0
        ids, mask = batch["input_ids"][row], batch["attention_mask"][row]
        while column < len(ids):
            if not mask[column]:
                column += 1
            elif ids[column] != tiny.IMAGE_TOKEN:
                pieces.append(embed(ids[column : column + 1]))
                columns.append(column)
                column += 1
            else:
                report, image = images[at], features[at]
                rest = [i for i in range(len(image)) if i not in report.indices.tolist()]
                kept = [image[report.indices]]
                columns += [column + i for i in report.indices.tolist()]
                if report.aggregated:
                    kept.append(image[rest].mean(dim=0, keepdim=True))
                    columns.append(column + rest[len(rest) // 2])
                pieces.append(project(torch.cat(kept)))
                at += 1
                column += len(image)
        rows.append(torch.cat(pieces))
        row_positions.append(columns)
    out = _pad_embeds(rows, row_positions, positions)
    if labels is not None:
        out["labels"] = torch.full_like(out["attention_mask"], -100)
        for i, columns in enumerate(row_positions):
            out["labels"][i, -len(columns) :] = labels[i, columns]
    return out


def _pad_embeds(rows: list[Tensor], columns: list[list[int]], positions: Tensor | None) -> dict[str, Tensor]:
    width = max(map(len, rows))
    embeds = torch.zeros(len(rows), width, rows[0].shape[1])
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    axes = torch.zeros(3, len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        embeds[i, width - len(row) :] = row
        mask[i, width - len(row) :] = 1
        if positions is not None:
            axes[:, i, width - len(row) :] = positions[:, i, columns[i]]
    out = {"inputs_embeds": embeds, "attention_mask": mask}
    return out if positions is None else {**out, "position_ids": axes}
