"""The pipeline's side of ``vision_engine=``, and what is said where an engine is not there. No engine is needed here."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import trimkit
from tests import tiny
from trimkit.core.types import ImageTokens
from trimkit.engines.export import export_onnx
from trimkit.errors import ConfigError, MissingDependencyError, UnsupportedError
from trimkit.models import Family, ModelInputs, family_of
from trimkit.pipeline.encoding import encode
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.pipeline.vision_engine import VisionEngine


@dataclass
class Doubling:
    """An engine whose features are twice torch's, so that one sees where they come from."""

    name: str = "doubling"
    batches: list[int] = field(default_factory=list)

    def encode(self, family: Family, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        self.batches.append(len(arguments["pixel_values"]))
        parts = family.parts(model)
        assert parts is not None
        return parts.images(2 * parts.tower(arguments["pixel_values"]))


def test_parts_are_what_the_family_does(model: Any) -> None:
    family, pixels = family_of(model), tiny.pixels(2)
    parts = family.parts(model)
    assert parts is not None
    with torch.no_grad():
        features = parts.tower(pixels)
        for one, other in zip(parts.images(features), family.encode(model, {"pixel_values": pixels}), strict=True):
            assert torch.equal(one.features, other.features)
            assert one.grid == other.grid == (tiny.SIDE, tiny.SIDE)
        assert torch.equal(parts.projector(features), torch.stack(family.project(model, list(features))))
    assert family_of(tiny.llava_next()).parts(tiny.llava_next()) is None


@torch.no_grad()
def test_an_engine_runs_what_the_cache_does_not_hold_and_is_held_apart(model: Any) -> None:
    family, cache, engine = family_of(model), FeatureCache(32), Doubling()
    assert isinstance(engine, VisionEngine)
    arguments = {"pixel_values": tiny.pixels(3)}
    by_torch, _ = encode(family, model, arguments, cache)
    for held in (False, True):
        images, cached = encode(family, model, arguments, cache, engine=engine)
        assert cached == [held] * 3
        for one, other in zip(images, by_torch, strict=True):
            assert torch.equal(one.features, 2 * other.features)
            assert one.key == other.key  # random methods draw by it
    again, cached = encode(family, model, arguments, cache)
    assert cached == [True] * 3
    assert torch.equal(again[0].features, by_torch[0].features)
    assert engine.batches == [3]
    encode(family, model, {"pixel_values": torch.cat([tiny.pixels(3), tiny.pixels(10, seed=1)])}, cache, engine=engine)
    assert engine.batches == [3, 8, 2]  # what is new, eight at a time


@pytest.mark.parametrize("method", ["divprune", "none"])
def test_the_pipeline_gives_everything_to_the_engine(model: Any, method: str) -> None:
    engine = Doubling()
    inputs = tiny.llava_batch([1, 2])
    trimkit.prepare(model, None, inputs, method=method, vision_engine=engine, cache_images=0)
    assert engine.batches == [3]


def test_what_cannot_be_is_one_line(model: Any) -> None:
    inputs = tiny.llava_batch([1])
    for said, kind, options in (
        ("is taken by trimkit.attach and trimkit.reduce", ConfigError, {"vision_engine": "openvino"}),
        (
            "cls_attention and cls_state and keys_mean from inside",
            UnsupportedError,
            {"vision_engine": Doubling(), "method": "visionzip"},
        ),
        ("stops the vision tower midway", ConfigError, {"vision_engine": Doubling(), "tower_keep": 0.5}),
    ):
        with pytest.raises(kind, match=said) as raised:
            trimkit.prepare(model, None, inputs, query="a", scorer=tiny.ToyScorer(), **options)
        assert "\n" not in str(raised.value)
    with pytest.raises(UnsupportedError, match="CLIP's vision tower before a projector"):
        trimkit.prepare(tiny.llava_next(), None, inputs, method="divprune", vision_engine=Doubling())


def test_an_unknown_engine_names_those_there_are(model: Any) -> None:
    with pytest.raises(ConfigError, match="choose one of onnxruntime, openvino"):
        trimkit.attach(model, method="divprune", vision_engine="tensorrt")


@pytest.mark.parametrize(("name", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_missing_engine_is_one_line(model: Any, monkeypatch: pytest.MonkeyPatch, name: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=rf"{name} is not installed: pip install 'trimkit\[{extra}\]'"):
        trimkit.attach(model, method="divprune", vision_engine=name)
    assert "generate" not in vars(model)


def test_export_says_what_is_missing_before_it_reads_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"onnx is not installed: pip install 'trimkit\[onnx\]'"):
        export_onnx("there/is-none", tmp_path / "graph", budget=121)
    assert list(tmp_path.iterdir()) == []
