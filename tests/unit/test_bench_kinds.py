"""Other architectures than LLaVA-1.5: what is built has the tokens, FLOPs, cache and weights that the formulas say."""

from __future__ import annotations

import pytest
import torch

from trimkit.bench import build, formula, measure
from trimkit.bench.arms import Arm
from trimkit.bench.capacity import Load, largest_batch, needed_bytes, saved_share
from trimkit.bench.plan import planned
from trimkit.bench.shapes import SHAPES
from trimkit.bench.subject import RandomModel
from trimkit.methods import get_method

CPU = torch.device("cpu")
TEXT = 12
SMALL = [name for name in SHAPES if name.startswith("small-")]


@pytest.fixture(autouse=True)
def _few_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_PEAK_RUNS", 1)


@pytest.mark.parametrize("name", SMALL)
def test_flops_and_cache_as_torch_has_them(name: str) -> None:
    shape, pictures = SHAPES[name], 2
    subject = RandomModel(shape, TEXT, CPU, torch.float32, 0, pictures)
    sizes = formula.sizes_of_shape(shape)
    for method in (None, get_method("random", budget=4), get_method("trim", budget=4, aggregate="none")):
        found = measure.count(Arm(subject, method, 1, 2))
        stages = formula.flops(sizes, found.work)
        assert stages["prefill"] == found.prefill_flops
        assert sum(stages.values()) == pytest.approx(found.flops, rel=0.02)  # windows at the edge are smaller
        assert formula.kv_bytes(sizes, found.work, 4) == found.kv_bytes
        assert found.image_tokens == (shape.image_tokens if method is None else 4)
        if method is None:  # the plan says what ran
            plan = planned(sizes, 1, pictures * shape.image_tokens, TEXT + pictures - 1, 2, pictures)
            assert formula.flops(sizes, plan) == stages


@pytest.mark.parametrize("name", [name for name in SHAPES if not name.startswith("small")])
def test_weights(name: str) -> None:
    shape = SHAPES[name]
    model = build.build_llava(shape, device=torch.device("meta"), dtype=torch.bfloat16)
    numbers = sum(weight.numel() for weight in model.parameters())
    assert formula.weights(formula.sizes_of_shape(shape))["model"] == pytest.approx(numbers, rel=0.002)


def test_a_shape_of_llava_is_what_its_config_says() -> None:
    for name in ("small", "llava-1.5-13b"):
        shape = SHAPES[name]
        text = build.clip_config(shape).text_config
        assert formula.sizes_of(build.llava_config(shape), text) == formula.sizes_of_shape(shape)


def test_tokens() -> None:
    tokens = {name: shape.image_tokens for name, shape in SHAPES.items()}
    assert tokens["llava-next-7b"] == 5 * 576 + 48
    assert tokens["llava-onevision-7b"] == 5 * 729 + 54
    assert (tokens["qwen2.5-vl-7b"], tokens["qwen2.5-vl-7b-4096"], tokens["qwen3-vl-8b"]) == (1280, 4096, 1280)


def test_the_largest_batch_is_the_last_that_fits() -> None:
    sizes = formula.sizes_of_shape(SHAPES["llava-1.5-7b"])
    full, reduced = Load(sizes, 576), Load(sizes, 121, reduced=True)
    memory = 80_000_000_000
    for load in (full, reduced):
        most = largest_batch(load, memory, 2)
        assert needed_bytes(load, most, 2) <= memory < needed_bytes(load, most + 1, 2)
    assert largest_batch(reduced, memory, 2) > 2 * largest_batch(full, memory, 2)
    assert largest_batch(full, 10_000_000_000, 2) == 0, "the weights alone are more"
    assert saved_share(full, reduced, 1, 2)["saved"] < 0.05 < 0.3 < saved_share(full, reduced, 64, 2)["saved"]
