"""The reduced batch made by hand as ``inputs_embeds``: no code of the library, only its chosen indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests import tiny
from tests.contract.families import ENCODED, FamilyCase, other_picture
from trimkit import ImageReport


def hand_built(
    case: FamilyCase,
    model: Any,
    batch: dict[str, Tensor],
    images: tuple[ImageReport, ...],
    labels: Tensor | None = None,
) -> dict[str, Tensor]:
    """The reduced batch made by hand as ``inputs_embeds``: no code of the library, only its chosen indices."""
    features, project = case.features(model, batch)
    positions = None
    if case.positions:
        positions, _ = model.model.get_rope_index(
            batch["input_ids"],
            mm_token_type_ids=batch["mm_token_type_ids"],
            image_grid_thw=batch["image_grid_thw"],
            attention_mask=batch["attention_mask"],
        )
    rows, row_positions, at = [], [], 0
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        # (where it goes, embedding, whose column's position it has)
        items = [
            (float(i), case.text(model, ids[i : i + 1]), i)
            for i in range(len(ids))
            if mask[i] and ids[i] != tiny.IMAGE_TOKEN
        ]
        places = [i for i in range(len(ids)) if ids[i] == tiny.IMAGE_TOKEN]
        while places:
            report, image = images[at], features[at]
            at += 1
            columns, places = places[: len(image)], places[len(image) :]
            items += _image_items(report, image, columns, project)
        items.sort(key=lambda item: item[0])
        rows.append(torch.cat([embedding for _, embedding, _ in items]))
        row_positions.append([column for _, _, column in items])
    out = _pad_embeds(rows, row_positions, positions)
    if "token_type_ids" in batch:
        out["token_type_ids"] = torch.zeros_like(out["attention_mask"])
        for i, columns in enumerate(row_positions):
            out["token_type_ids"][i, -len(columns) :] = batch["token_type_ids"][i, columns]
    if labels is not None:
        out["labels"] = torch.full_like(out["attention_mask"], -100)
        for i, columns in enumerate(row_positions):
            out["labels"][i, -len(columns) :] = labels[i, columns]
    return out


def logits_of(case: FamilyCase, model: Any, batch: dict[str, Tensor], built: dict[str, Tensor], images: Any) -> Tensor:
    """Stock logits of what ``hand_built`` gave; deep-stack features are handed to the language model beside it."""
    if not case.deeper:
        return model(**built).logits  # type: ignore[no-any-return]
    arguments = {name: batch[name] for name in ENCODED if name in batch}
    encoded = model.model.get_image_features(**arguments, return_dict=True).deepstack_features
    deeper = []
    for layer in encoded:
        rows = []
        for report, image in zip(images, layer, strict=True):
            rest = [i for i in range(len(image)) if i not in report.indices.tolist()]
            rows += [image[report.indices]] + ([image[rest].mean(dim=0, keepdim=True)] if report.aggregated else [])
        deeper.append(torch.cat(rows))
    # Image tokens are where the embeddings of other pictures differ.
    others = hand_built(case, model, other_picture(batch), images)["inputs_embeds"]
    marks = (others != built["inputs_embeds"]).any(dim=-1)
    hidden = model.model.language_model(
        inputs_embeds=built["inputs_embeds"],
        attention_mask=built["attention_mask"],
        position_ids=built["position_ids"],
        visual_pos_masks=marks,
        deepstack_visual_embeds=deeper,
    ).last_hidden_state
    return model.lm_head(hidden)  # type: ignore[no-any-return]


def _image_items(
    report: ImageReport, image: Tensor, columns: list[int], project: Callable[[Tensor], Tensor]
) -> list[tuple[float, Tensor, int]]:
    kept = report.indices.tolist()
    rest = [i for i in range(len(image)) if i not in kept]
    pieces = [image[kept]] + ([image[rest].mean(dim=0, keepdim=True)] if report.aggregated else [])
    keys = [float(columns[i]) for i in kept] + [(columns[kept[-1]] if kept else columns[0]) + 0.5]
    whose = [columns[i] for i in kept] + ([columns[rest[len(rest) // 2]]] if report.aggregated else [])
    return [
        (key, embedding[None], column)
        for key, embedding, column in zip(keys, project(torch.cat(pieces)), whose, strict=False)
    ]


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
