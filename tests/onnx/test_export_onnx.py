"""``trimkit export --onnx``: one graph from pixels and question ids, which chooses as the library does, in both engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trimkit
from tests.checkpoint import SIDE, TOKENS, save_small
from trimkit.cli import run
from trimkit.core.types import EncoderProfile
from trimkit.demo import demo_model_path
from trimkit.engines import ENGINES
from trimkit.engines.export import SETTINGS, export_onnx
from trimkit.engines.sessions import open_session
from trimkit.errors import ConfigError, MissingDependencyError, ModelError
from trimkit.loading import load_model
from trimkit.scorers import fingerprint_of, write_fitted
from trimkit.scorers.fitted_network import NetworkShape, ScoringNetwork

for package in ("onnx", "onnxscript", *ENGINES):
    pytest.importorskip(package, reason="engines are not installed: run `make test-onnx`")

METHODS = ("trim", "focus", "cdpruner", "divprune", "uniform")
QUESTIONS = ("is there a red car?", "what color is the small square to the left of the other one?", "where?")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA with a CLIP of its tower's shape beside it."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    folder = save_small(tmp_path_factory.mktemp("tiny") / "llava")
    tokenizer = AutoTokenizer.from_pretrained(demo_model_path() / "clip")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={"image_size": SIDE, "patch_size": 14, **tower},
        text_config={**tower, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id},
        projection_dim=16,
    )
    torch.manual_seed(1)
    CLIPModel(config).save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    (folder / "trimkit.json").write_text('{"clip": "clip", "sign": 1}')
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("graphs")
    return {name: export_onnx(str(checkpoint), home / name, method=name, budget=6) for name in METHODS}


def fitted_scorer(checkpoint: Path, folder: Path, *, on_clip: bool) -> Path:
    """As ``trimkit fit`` writes it, with weights that were drawn."""
    from transformers import AutoTokenizer

    model, _ = load_model(str(checkpoint), dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    torch.manual_seed(2)
    network = ScoringNetwork(NetworkShape(32, len(tokenizer), 8))
    with torch.no_grad():
        for name, each in network.named_parameters():
            if name != "base_share":
                each.normal_(std=0.3)
    folder.mkdir()
    base: dict[str, Any] = {"base": str(checkpoint / "clip"), "base_profile": EncoderProfile(-1, False, 0.5)}
    own = (network, tokenizer, EncoderProfile(sign=1, temperature=2.0), fingerprint_of(model))
    write_fitted(folder, *own, **(base if on_clip else {}))
    return folder


def text_ids(directory: Path, name: str, questions: tuple[str, ...]) -> np.ndarray[Any, Any]:
    from transformers import AutoTokenizer

    said = json.loads((directory / SETTINGS).read_text())["inputs"][name]
    tokenizer = AutoTokenizer.from_pretrained(directory / name.replace("_ids", "_tokenizer"))
    rows = [tokenizer(question, add_special_tokens=said["special_tokens"])["input_ids"] for question in questions]
    longest = max(map(len, rows))
    return np.array([row + [said["pad_with"]] * (longest - len(row)) for row in rows], np.int64)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", METHODS)
def test_the_graph_chooses_as_the_library(
    checkpoint: Path, exported: dict[str, Path], method: str, engine: str
) -> None:
    directory = exported[method]
    encoder = trimkit.VisionEncoder.from_pretrained(str(checkpoint), dtype="float32", method=method, budget=6)
    session = open_session(engine, directory / "model.onnx")
    for count in (1, 3):  # a batch of any size
        pixels = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(count))
        inputs: dict[str, Any] = {"pixel_values": pixels.numpy()}
        if encoder.method.needs_relevance:
            inputs["question_ids"] = text_ids(directory, "question_ids", QUESTIONS[:count])
        found = session(inputs)
        for row, expected in enumerate(encoder({"pixel_values": pixels}, QUESTIONS[:count])):
            assert found["indices"][row].tolist() == expected.selection.indices.tolist()
            assert np.abs(found["embeddings"][row] - expected.embeddings.numpy()).max() < 1e-4


@pytest.mark.parametrize("on_clip", [True, False])
@pytest.mark.parametrize("method", ["trim", "focus"])
def test_a_fitted_scorer_chooses_as_in_the_library(
    checkpoint: Path, tmp_path: Path, method: str, on_clip: bool
) -> None:
    scorer = fitted_scorer(checkpoint, tmp_path / "scorer", on_clip=on_clip)
    how: dict[str, Any] = {"method": method, "budget": 6}
    directory = export_onnx(str(checkpoint), tmp_path / "graph", scorer=scorer, **how)
    encoder = trimkit.VisionEncoder.from_pretrained(str(checkpoint), dtype="float32", scorer=str(scorer), **how)
    pixels = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    names = ("question_ids", "word_ids") if on_clip else ("word_ids",)
    inputs = {"pixel_values": pixels.numpy(), **{name: text_ids(directory, name, QUESTIONS) for name in names}}
    expected = encoder({"pixel_values": pixels}, QUESTIONS)
    for engine in ENGINES:
        found = open_session(engine, directory / "model.onnx")(inputs)
        for row, each in enumerate(expected):
            assert found["indices"][row].tolist() == each.selection.indices.tolist()
            assert np.abs(found["embeddings"][row] - each.embeddings.numpy()).max() < 1e-4
    plain = trimkit.VisionEncoder.from_pretrained(str(checkpoint), dtype="float32", **how)
    others = plain({"pixel_values": pixels}, QUESTIONS)
    assert any(
        one.selection.indices.tolist() != other.selection.indices.tolist()
        for one, other in zip(expected, others, strict=True)
    )


def test_settings_lie_beside_it(exported: dict[str, Path]) -> None:
    said = json.loads((exported["trim"] / SETTINGS).read_text())
    assert said["reduce"]["method"] == "trim"
    assert said["reduce"]["budget"] == 6
    assert said["image_tokens"] == {"before": TOKENS, "after": 6, "aggregated_last": True}
    assert said["outputs"]["embeddings"]["shape"] == ["batch", 6, 32]
    assert said["outputs"]["indices"]["shape"] == ["batch", 5]
    assert len(said["weights_sha256"]) == 64
    assert said["versions"]["torch"] == torch.__version__
    assert said["checked"]["same_indices"]
    assert "question_ids" not in json.loads((exported["uniform"] / SETTINGS).read_text())["inputs"]


def test_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "graph"
    arguments = ["export", str(checkpoint), "--onnx", "--method", "uniform", "--budget", "4", "-o", str(target)]
    assert run(arguments) == 0
    out = capsys.readouterr().out
    assert "pixel_values  float32 [batch, 3, 56, 56]" in out
    assert "same patches as torch" in out
    assert run(arguments) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--budget", "iqr"], "another number of tokens of each picture"),
        (["--budget", "top-p:0.9"], "another number of tokens of each picture"),
        (["--method", "random", "--budget", "4"], "'random' cannot be exported to ONNX"),
        (["--budget", "4", "--dtype", "float16"], "leave --device and --dtype out"),
    ],
)
def test_what_cannot_be_a_graph_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert run(["export", str(checkpoint), "--onnx", "-o", str(tmp_path / "graph"), *more]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert said in out.err
    assert len(out.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_stay(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        export_onnx(str(checkpoint), tmp_path, budget=4)
    with pytest.raises(ConfigError, match="needs a directory"):
        export_onnx(str(checkpoint), None, budget=4)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_graph_that_is_not_torchs_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimkit.engines.export._CLOSE", -1.0)
    with pytest.raises(ModelError, match="does not compute what torch does"):
        export_onnx(str(checkpoint), tmp_path / "graph", method="uniform", budget=4)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'trimkit\[onnx\]'"):
        export_onnx(str(checkpoint), tmp_path / "graph", budget=4)
