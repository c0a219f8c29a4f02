"""Formulas against torch: FLOPs, bytes of the cache and numbers of weights are equal, whichever layers run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimkit.bench import build, formula, measure
from trimkit.bench.arms import Arm
from trimkit.bench.probe import Probe
from trimkit.bench.shapes import SHAPES, shape_of
from trimkit.bench.subject import RandomModel
from trimkit.errors import ConfigError, UnknownNameError
from trimkit.methods import get_method
from trimkit.models._base import AT_ONCE

SMALL = SHAPES["small"]
CPU = torch.device("cpu")
TEXT = 12


@pytest.fixture(scope="module")
def subject() -> RandomModel:
    return RandomModel(SMALL, TEXT, CPU, torch.float32, 0)


@pytest.fixture(autouse=True)
def _few_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_PEAK_RUNS", 1)


def planned(kept: int, batch: int, new_tokens: int, **more: Any) -> formula.Work:
    """What a request does, from its settings alone."""
    lengths = (kept + TEXT,) * SMALL.layers
    whole = [formula.LayerCall(number, batch, SMALL.image_tokens + 1) for number in range(SMALL.vision[0])]
    tower = more.pop("tower", whole)
    return formula.Work(batch, tower, projected=batch * kept, prefill=lengths, new_tokens=new_tokens, **more)


@pytest.mark.parametrize(("batch", "new_tokens"), [(1, 1), (2, 3), (AT_ONCE + 1, 1)])
@pytest.mark.parametrize("method", [None, "trim", "random"])
def test_flops_and_cache_as_torch_has_them(
    subject: RandomModel, method: str | None, batch: int, new_tokens: int
) -> None:
    arm = Arm(subject, method and get_method(method, budget=21), batch, new_tokens)
    found = measure.count(arm)
    kept = 100 if method is None else 21
    more: dict[str, Any] = {"tower": found.work.tower}  # which of the tower's layers run is not the plan's business
    if method == "trim":
        more |= {"texts": (25,) * batch, "scored": 100 * batch}
    work = planned(kept, batch, new_tokens, **more)
    assert found.work == work
    stages = formula.flops(subject.sizes(), work)
    assert (sum(stages.values()), stages["prefill"]) == (found.flops, found.prefill_flops)
    assert formula.kv_bytes(subject.sizes(), work, 4) == found.kv_bytes
    assert found.image_tokens == kept
    assert found.peak_bytes >= 0


def test_prefill_by_hand(subject: RandomModel) -> None:
    length, width, inner = 33, 64, 128
    layer = 2 * length * (4 * width * width + 3 * width * inner) + 4 * length * length * width
    work = planned(21, 1, 1)
    assert formula.flops(subject.sizes(), work)["prefill"] == 2 * layer + 2 * width * 256


@pytest.mark.parametrize("batch", [1, AT_ONCE + 1])
def test_patches_that_are_dropped_in_the_tower_do_not_count(subject: RandomModel, batch: int) -> None:
    arm = Arm(subject, get_method("trim", budget=21), batch, 1, tower_keep=0.5, tower_layer=1)
    found = measure.count(arm)
    assert sum(formula.flops(subject.sizes(), found.work).values()) == found.flops
    assert {each.length for each in found.work.tower} == {101, 51}


def test_memory_is_that_of_the_pictures_in_the_tower_at_a_time(subject: RandomModel) -> None:
    sizes, batch = subject.sizes(), 2 * AT_ONCE
    together = formula.peaks(sizes, planned(21, batch, 1), 4)["vision"]
    calls = [formula.LayerCall(layer, AT_ONCE, 101) for _ in range(2) for layer in range(2)]
    in_groups = formula.peaks(sizes, planned(21, batch, 1, tower=calls), 4)["vision"]
    waiting = (batch - AT_ONCE) * 101 * SMALL.vision[1] * 4
    assert in_groups == together // 2 + waiting


def test_layers_that_are_skipped_or_shortened_do_not_count(subject: RandomModel) -> None:
    """A tower that stops early, or drops tokens midway, is seen as it ran."""
    tower, pixels = subject.model.model.vision_tower, subject.request(2, 0, 0, 1).inputs["pixel_values"]
    for lengths in ([101], [101, 40]):
        counter = measure._counter()
        with torch.no_grad(), counter, Probe(subject.model).watch(float, lengths=True) as trace:
            hidden = tower.pre_layrnorm(tower.embeddings(pixels))
            for layer, length in zip(tower.encoder.layers, lengths, strict=False):
                hidden = layer(hidden[:, :length], None)
        assert trace.tower == [(number, 2, length) for number, length in enumerate(lengths)]
        work = formula.Work(2, trace.tower)
        assert formula.flops(subject.sizes(), work)["vision"] == counter.get_total_flops()


def test_weights(subject: RandomModel) -> None:
    numbers = formula.weights(subject.sizes())
    assert numbers["model"] == sum(weight.numel() for weight in subject.model.parameters())
    with torch.device("meta"):
        for name in ("llava-1.5-7b", "llava-1.5-13b"):
            shape = shape_of(name)
            sizes = formula.sizes_of(build.llava_config(shape), build.clip_config(shape).text_config)
            model = build.build_llava(shape, device=torch.device("meta"), dtype=torch.bfloat16)
            assert formula.weights(sizes)["model"] == sum(weight.numel() for weight in model.parameters())


def test_predicted_bytes_grow_with_rows_and_tokens(subject: RandomModel) -> None:
    sizes = subject.sizes()
    full, kept = (formula.peaks(sizes, planned(tokens, 1, 1), 4) for tokens in (100, 21))
    assert full["kv"] == formula.kv_bytes(sizes, planned(100, 1, 1), 4)
    assert full["prefill"] == full["kv"] + full["activations"] > kept["prefill"]
    assert kept["peak"] == max(kept["prefill"], kept["vision"])
    assert formula.peaks(sizes, planned(100, 16, 1), 4)["peak"] == 16 * full["peak"]


def test_other_architectures_have_no_formula() -> None:
    config = build.llava_config(SMALL)
    assert formula.sizes_of(build.clip_config(SMALL)) is None
    config.vision_config.model_type = "pixtral"
    assert formula.sizes_of(config) is None


def test_shapes() -> None:
    seven = shape_of("llava-1.5-7b", 4)
    assert (seven.layers, seven.full_layers, seven.image_tokens) == (4, 32, 576)
    assert seven.to_plain()["of_layers"] == 32
    assert shape_of("small").full_layers == 2
    with pytest.raises(UnknownNameError, match="did you mean 'clip-l-336'"):
        shape_of("clip-l-333")
    for layers in (0, -1, 33):
        with pytest.raises(ConfigError, match="outside 1 to 32"):
            shape_of("llava-1.5-7b", layers)
