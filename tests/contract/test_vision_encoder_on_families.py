"""``VisionEncoder`` loaded from disk, on every family: the whole model's features, and the tokens of an attached call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import trimkit
from tests import tiny
from tests.contract.families import ENCODED, FAMILIES, IMAGES_PER_ROW, FamilyCase
from tests.tiny import ToyScorer
from trimkit import ImageEmbeddings, ImageTokens, ReducedInputs, VisionEncoder
from trimkit.demo import load_demo
from trimkit.models import family_of
from trimkit.pipeline.partial_checkpoint import load_without_language_model

QUERIES = [f"question {i}" for i in range(len(IMAGES_PER_ROW))]
REDUCTIONS: dict[str, dict[str, Any]] = {
    "trim": {"method": "trim", "scorer": ToyScorer()},
    "focus": {"method": "focus", "scorer": ToyScorer(), "budget": 5},
    "avg-pool": {"method": "avg-pool", "budget": 4},
    "none": {"method": "none"},
}


class Saved:
    """A family's tiny model, in memory and on disk."""

    def __init__(self, name: str, folder: Path) -> None:
        self.case: FamilyCase = FAMILIES[name]
        self.model = self.case.build()
        self.folder = str(folder)
        self.model.save_pretrained(folder)
        load_demo()[1].save_pretrained(folder)  # any image processor: what is tested gets processed arguments

    @property
    def arguments(self) -> dict[str, Tensor]:
        batch = self.case.batch("left")
        names = (*ENCODED, "pixel_values_images")
        return {name: batch[name] for name in names if name in batch}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(request.param, tmp_path_factory.mktemp(request.param))


def prepared(saved: Saved, reduction: str) -> ReducedInputs:
    options = REDUCTIONS[reduction]
    query = QUERIES if "scorer" in options else None
    with torch.no_grad():
        return trimkit.prepare(saved.model, None, saved.case.batch("left"), **options, query=query)


def encoded(saved: Saved, reduction: str) -> list[ImageEmbeddings]:
    encoder = VisionEncoder.from_pretrained(saved.folder, **REDUCTIONS[reduction])
    asked = [QUERIES[image.row] for image in prepared(saved, reduction).images]
    return encoder(saved.arguments, asked if "scorer" in REDUCTIONS[reduction] else None)


def _encoded(model: Any, saved: Saved) -> list[ImageTokens]:
    return family_of(model).encode(model, dict(saved.arguments))


def test_features_and_buffers_are_the_whole_model_s(saved: Saved) -> None:
    part, _ = load_without_language_model(saved.folder)
    assert type(part) is type(saved.model)
    assert not part.training
    whole = saved.model.state_dict()
    gone = {name for name in whole if name not in part.state_dict()}
    assert gone
    assert all("language_model" in name or "text_model" in name or name == "lm_head.weight" for name in gone)
    buffers = dict(saved.model.named_buffers())
    for name, value in [*part.state_dict().items(), *part.named_buffers()]:
        assert torch.equal(value, whole.get(name, buffers.get(name))), name
    with torch.no_grad():
        expected, got = ([each.features for each in _encoded(model, saved)] for model in (saved.model, part))
    assert len(got) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize("reduction", sorted(REDUCTIONS))
def test_records_are_those_of_a_prepared_call(saved: Saved, reduction: str) -> None:
    records, images = encoded(saved, reduction), prepared(saved, reduction).images
    assert [record.row for record in records] == list(range(len(images)))
    for record, image in zip(records, images, strict=True):
        assert record.query == image.query
        assert torch.equal(record.embeddings, image.embeddings)
        assert torch.equal(record.indices, image.indices)
        assert record.grid == image.grid
        assert len(record.layers) == len(image.layers)
        assert all(torch.equal(one, other) for one, other in zip(record.layers, image.layers, strict=True))
        assert (record.relevance is None) == (image.relevance is None)
        assert record.relevance is None or torch.equal(record.relevance, image.relevance)


@pytest.mark.parametrize("reduction", sorted(REDUCTIONS))
@pytest.mark.parametrize("saved", ["llava", "llava_next", "qwen2_5_vl"], indirect=True)
def test_a_language_model_fed_with_them_answers_as_an_attached_one(saved: Saved, reduction: str) -> None:
    """Embeddings put by hand where placeholders stand; with M-RoPE, positions are those of the prepared call."""
    batch, options = saved.case.batch("left"), REDUCTIONS[reduction]
    query = {"query": QUERIES} if "scorer" in options else {}
    steps: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    with trimkit.reduce(saved.model, **options, **query):
        expected = saved.model.generate(**batch, **steps)[:, batch["input_ids"].shape[1] :]
    with torch.no_grad():
        fed = by_hand(saved.model, batch, encoded(saved, reduction))
    if saved.case.positions:
        fed["position_ids"] = positions_of(saved, reduction)
    assert saved.model.generate(**fed, **steps).tolist() == expected.tolist()


def by_hand(model: Any, batch: dict[str, Tensor], records: Sequence[ImageEmbeddings]) -> dict[str, Tensor]:
    """The reduced prompts as embeddings, padded on the left."""
    embed, left = model.get_input_embeddings(), list(records)
    rows = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        real, parts, at = ids[mask.bool()], [], 0
        while at < len(real):
            if real[at] == tiny.IMAGE_TOKEN:
                record = left.pop(0)
                parts.append(record.embeddings)
                at += record.selection.total
            else:
                parts.append(embed(real[at : at + 1]))
                at += 1
        rows.append(torch.cat(parts))
    assert not left
    width = max(map(len, rows))
    pad = [torch.nn.functional.pad(row, (0, 0, width - len(row), 0)) for row in rows]
    mask = torch.stack([(torch.arange(width) >= width - len(row)).long() for row in rows])
    return {"inputs_embeds": torch.stack(pad), "attention_mask": mask}


def positions_of(saved: Saved, reduction: str) -> Tensor:
    """``[4, B, L']``, also where nothing was dropped and the model would count by itself."""
    reduced = prepared(saved, reduction)
    if "position_ids" in reduced.inputs:
        return reduced.inputs["position_ids"]  # type: ignore[no-any-return]
    batch = saved.case.batch("left")
    axes, _ = saved.model.model.get_rope_index(
        batch["input_ids"],
        mm_token_type_ids=batch["mm_token_type_ids"],
        image_grid_thw=batch["image_grid_thw"],
        attention_mask=batch["attention_mask"],
    )
    text = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return torch.cat([text.unsqueeze(0), axes])
