"""The worked example of training: its data are what it says, and both of its arms run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from examples import finetune_demo as example
from trimkit.demo import load_demo

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_demo()[1]


def test_only_answers_have_labels(processor: Any) -> None:
    scenes = example.training_scenes(0, 6)
    items = [scenes[i] for i in range(6)]
    batch = example.Collator(processor)(items)
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values", "labels"}
    for ids, labels, item in zip(batch["input_ids"], batch["labels"], items, strict=True):
        learnt = labels != -100
        assert torch.equal(labels[learnt], ids[learnt])
        assert processor.decode(labels[learnt]) == f" {item['answer']}</s>"
        text = processor.decode(ids, skip_special_tokens=True)
        assert item["question"] in text


def test_shorthand_keeps_the_words_that_count() -> None:
    assert example.shorthand("Is there a fox in the picture?") == "the picture: fox"
    assert example.shorthand("What colour is the disc behind the T-shirt?") == "the picture: colour disc behind t-shirt"
    assert example.shorthand("Is the fox to the left of the ice cream?") == "the picture: fox left ice cream"


def test_held_out_scenes_are_others_and_stay_the_same() -> None:
    training, held_out = example.training_scenes(0, 3), example.held_out_scenes(0, 3)
    assert training[0]["image"].tobytes() == example.training_scenes(0, 3)[0]["image"].tobytes()
    assert training[0]["image"].tobytes() != held_out[0]["image"].tobytes()


@pytest.mark.parametrize("method", ["none", "trim"])
def test_both_arms_train_and_save(method: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    arguments = argparse.Namespace(
        steps=1, batch=2, n=2, seed=0, train_tower=False, gradient_checkpointing=False, out=tmp_path / "shorthand"
    )
    found = example.finetune(method, arguments)
    assert found["n"] == 2
    assert found["seconds_per_step"] > 0
    if method == "trim":
        from trimkit.loading import load_model

        model, processor = load_model(str(arguments.out))
        scenes = example.held_out_scenes(0, 1)
        example.replies_right(model, processor, scenes, "trim")  # finds its CLIP and its sign


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    import json
    import subprocess
    import sys

    out = tmp_path / "training.json"
    line = [
        sys.executable,
        "-m",
        "benchmarks.bench_training",
        "--steps",
        "2",
        "--batch",
        "2",
        "--n",
        "4",
        "--out",
        str(out),
    ]
    subprocess.run(line, check=True, cwd=Path(__file__).parents[2])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["tokens"]["ratio"] < 0.5
    assert record["memory"]["above_ratio"] > 0
    assert set(record["accuracy"]) >= {"before", "full_asked_full", "trim_asked_trim", "trim_asked_full", "difference"}
