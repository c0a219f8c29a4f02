"""The model card that an export writes: metadata that the hub reads, and nothing that names the machine."""

from __future__ import annotations

from pathlib import Path

import yaml

import trimkit
from tests.checkpoint import save_small
from trimkit.attach.model_card import model_card, write_card

REDUCTION = {"method": "trim", "budget": 0.2, "aggregate": "mean", "profile": None}


def metadata(text: str) -> dict[str, object]:
    _, front, _ = text.split("---\n", 2)
    return dict(yaml.safe_load(front))


def test_the_hub_reads_it() -> None:
    card = model_card(REDUCTION, "llava-hf/llava-1.5-7b-hf")
    found = metadata(card)
    assert found["base_model"] == "llava-hf/llava-1.5-7b-hf"
    assert found["library_name"] == "transformers"
    assert found["pipeline_tag"] == "image-text-to-text"
    assert "trimkit" in found["tags"]  # type: ignore[operator]
    assert "| budget | `0.2` |" in card
    assert '`aggregate="mean"`' in card
    assert f"trimkit>={trimkit.__version__}" in card


def test_a_path_is_not_told() -> None:
    card = model_card(REDUCTION, "/home/somebody/secret/model")
    assert "secret" not in card
    assert "base_model" not in metadata(card)


def test_a_card_that_is_there_stays(tmp_path: Path) -> None:
    write_card(tmp_path, REDUCTION)
    first = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert first == model_card(REDUCTION)
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    write_card(tmp_path, REDUCTION)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"


def test_an_export_has_one(tmp_path: Path) -> None:
    model = save_small(tmp_path / "model", context=1024)
    assert not (model / "README.md").exists()
    target = trimkit.export(model, tmp_path / "out", method="random", budget=8)
    assert "| method | `random` |" in (target / "README.md").read_text(encoding="utf-8")
