"""``trimkit.bench``: what a measurement holds, the order of turns, and what is refused before anything is built."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from trimkit import loading
from trimkit.bench import machine, measure, memory, plot, run, stats
from trimkit.bench.build import build_llava
from trimkit.bench.run import Settings, bench, steps_of
from trimkit.bench.shapes import SHAPES
from trimkit.bench.table import lines
from trimkit.errors import ConfigError, InputError, TrimkitError

SPREAD = {"median", "q25", "q75", "runs"}
INTERVAL = {"median", "low", "high", "runs"}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    settings = Settings(
        random="small",
        layers=1,
        methods=("trim", "random", "none"),
        new_tokens=(1, 2),
        questions=2,
        text_tokens=8,
        repeats=2,
        device="cpu",
        dtype="float32",
    )
    done: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_PEAK_RUNS", 1)
        result = bench(settings, advance=done.append)
    assert sum(done) == steps_of(settings)
    assert len(done) == 2 * (3 + 3 * (2 + 1)), "a step for each arm's count, warm-up and turn, in both cells"
    return result


def test_json_holds_every_arm(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found))["arms"] == found["arms"]
    names = [(arm["method"], arm["batch_size"], arm["new_tokens"]) for arm in found["arms"]]
    assert names == [(name, 1, new) for new in (1, 2) for name in ("none", "trim", "random")]
    for arm in found["arms"]:
        for key in ("ttft_s", "prefill_s", "end_to_end_s"):
            assert set(arm[key]) == SPREAD
            assert 0 < arm[key]["q25"] <= arm[key]["median"] <= arm[key]["q75"]
            assert arm[key]["runs"] == 2
        assert (arm["decode_per_token_s"] is None) == (arm["new_tokens"] == 1)
        assert arm["image_tokens"] == (100 if arm["method"] == "none" else 21)
        assert arm["flops"] == arm["flops_formula"] == sum(arm["flops_by_stage"].values())
        assert arm["kv_bytes"] == arm["kv_bytes_formula"] > 0
        assert arm["peak_bytes"] >= 0
        assert sum(arm["stage_shares"].values()) == pytest.approx(1.0, abs=0.2)  # medians of shares
        rate = arm["throughput"]
        assert rate["questions"] == 2
        assert rate["tokens_per_s"]["median"] == pytest.approx(arm["new_tokens"] * rate["images_per_s"]["median"])
        assert set(arm["second_question"]["over_first"]) == INTERVAL


def test_what_is_added_is_told_cold_and_warm(found: dict[str, Any]) -> None:
    full, trim, random = found["arms"][:3]
    assert full["added_share"] is None
    assert full["stages_s"]["text"]["median"] == full["stages_s"]["shrink"]["median"] == 0
    assert set(trim["added_share"]["cold"]) == set(trim["added_share"]["warm"]) == SPREAD
    assert random["added_share"]["warm"] is None, "there is no question to know"
    assert trim["stages_s"]["shrink"]["median"] > 0


def test_ratios_are_against_the_full_arm(found: dict[str, Any]) -> None:
    assert [(entry["method"], entry["new_tokens"]) for entry in found["ratios"]] == [
        (name, new) for new in (1, 2) for name in ("trim", "random")
    ]
    full, trim = found["arms"][:2]
    entry = found["ratios"][0]
    assert entry["image_tokens"] == 0.21
    for key in ("flops", "prefill_flops", "kv_bytes"):
        assert entry[key] == trim[key] / full[key]
    assert set(entry["prefill_s"]) == INTERVAL
    quotient = entry["prefill_time_over_flops"]["median"]
    assert quotient == pytest.approx(entry["prefill_s"]["median"] / entry["prefill_flops"])


def test_fewer_layers_are_extrapolated_and_said_so(found: dict[str, Any]) -> None:
    for arm in found["arms"]:
        deep = arm["extrapolated"]
        assert (deep["from_layers"], deep["to_layers"]) == (1, 2)
        assert deep["kv_bytes"] == 2 * arm["kv_bytes"]
        for key in ("prefill_s", "ttft_s", "end_to_end_s"):
            assert deep[key]["median"] > arm[key]["median"]
    assert found["provenance"]["shape"]["of_layers"] == 2
    deep, memory = found["ratios"][0]["extrapolated"], found["memory"][0]
    assert set(deep["prefill_s"]) == INTERVAL
    # One more layer adds its KV cache to the peak, and its weights to what is held.
    extra = [arm["extrapolated"]["peak_bytes"] - arm["peak_bytes"] for arm in found["arms"]]
    assert memory["predicted"]["full"]["peak"] == memory["predicted"]["full"]["prefill"]
    assert extra[0] == memory["predicted"]["full"]["kv"] > extra[1] >= 0
    peaks = [arm["extrapolated"]["peak_bytes"] for arm in found["arms"]]
    whole = build_llava(SHAPES["small"], device=torch.device("cpu"), dtype=torch.float32, seed=0)
    held = sum(weight.nbytes for weight in whole.parameters())
    assert deep["peak_bytes"] == peaks[1] / peaks[0]
    assert deep["peak_with_weights_bytes"] == (held + peaks[1]) / (held + peaks[0])
    assert "extrapolated to 2 layers" in "\n".join(lines(found))


def test_layers_of_unlike_length_are_not_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SHAPES["small"]
    monkeypatch.setitem(SHAPES, "small", replace(small, language=(4, *small.language[1:])))
    common: dict[str, Any] = {"random": "small", "repeats": 1, "device": "cpu", "dtype": "float32"}
    found = bench(Settings(layers=3, methods=("trim", "fastv"), budgets=("21",), **common))
    full, trim, fastv = found["arms"]
    assert (full["extrapolated"] is None, trim["extrapolated"] is None, fastv["extrapolated"]) == (False, False, None)
    assert [entry["extrapolated"] is None for entry in found["ratios"]] == [False, True]
    assert sum(fastv["stage_shares"].values()) <= 1.0 + 1e-5  # each is rounded to 6 digits
    assert fastv["kv_bytes"] == fastv["kv_bytes_formula"]
    assert 0 < fastv["prefill_flops"] - fastv["prefill_flops_formula"] < 0.02 * fastv["prefill_flops"]  # its choosing
    assert "extrapolated to 4 layers" in "\n".join(lines(found))


def test_memory_stands_beside_its_formula(found: dict[str, Any]) -> None:
    for entry in found["memory"]:
        assert entry["saved_bytes"] == entry["full_peak_bytes"] - entry["reduced_peak_bytes"]
        full, reduced = entry["predicted"]["full"], entry["predicted"]["reduced"]
        assert entry["predicted_saved_bytes"] == full["peak"] - reduced["peak"]
        assert full["kv"] > reduced["kv"] > 0


def test_provenance(found: dict[str, Any]) -> None:
    about = found["provenance"]
    assert (about["dtype"], about["seed"], about["config"]["random"]) == ("float32", 0, "small")
    assert {"date", "versions", "hardware", "threads", "weights_bytes"} <= set(about)


def test_the_table_names_every_arm(found: dict[str, Any]) -> None:
    text = "\n".join(lines(found))
    assert text.startswith("small, 1 of 2 layers, float32, cpu")
    for word in ("full ", "trim 21:", "random 21:", "2 new tokens", "added", "next question", "GFLOPs"):
        assert word in text


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_plots(found: dict[str, Any], kind: str, tmp_path: Path) -> None:
    target = plot.check_plot(str(tmp_path / f"times.{kind}"))
    plot.draw(found, target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    if kind == "svg":
        root = ElementTree.parse(target).getroot()
        tags = [part.tag.rpartition("}")[2] for part in root]
        words = [part.text for part in root if part.text and part.text.strip()]
        assert tags.count("circle") == 3 + 2 * len(found["arms"]), "legend, and two panels for each length"
        assert {"full", "trim", "random", "image tokens a picture"} <= set(words)
        assert tags.count("polyline") > 20
    else:
        with Image.open(target) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert pixels.shape == (2 * (44 + 2 * 320), 2 * 960, 3)
        for colour in (plot._INK, *plot._COLOURS[:2]):
            rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            assert (pixels == rgb).all(axis=-1).sum() > 100, colour


def test_plots_are_refused_beforehand(tmp_path: Path) -> None:
    for name in ("times.pdf", "times", "no/such/times.svg"):
        with pytest.raises(InputError, match="cannot write"):
            plot.check_plot(str(tmp_path / name))


@pytest.mark.parametrize("most", [0.93, 576, 1.0, 3.2e-4, 1e-7, 41])
def test_axes_end_just_above(most: float) -> None:
    assert most <= plot._axis(most)[0] <= 1.5 * most
    assert 2 <= len(plot._ticks(*plot._axis(most))) <= 6


def test_arms_take_turns() -> None:
    turns = stats.orders(3, 7)
    assert turns[:3] == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    assert turns[3] == [2, 1, 0], "backwards the second time"
    assert all(sorted(turn) == [0, 1, 2] for turn in turns)
    assert [[turn[0] for turn in turns[:6]].count(arm) for arm in range(3)] == [2, 2, 2]


def test_rounds_run_every_arm_in_that_order() -> None:
    ran: list[str] = []

    class Fake:
        reads_text = False

        def __init__(self, name: str) -> None:
            self.name = name

        def request(self, picture: int, question: int) -> int:
            return question

        def forget(self) -> None:
            pass

        def time(self, request: int) -> Any:
            ran.append(f"{self.name}{request}")

    found = measure.rounds([Fake("a"), Fake("b")], 3, 2)  # type: ignore[list-item]
    assert [len(each) for each in found] == [3, 3]
    warm_up, timed = ran[:4], ran[4:]
    assert warm_up == ["a0", "a1", "b0", "b1"]
    assert timed == ["a0", "a1", "b0", "b1", "b0", "b1", "a0", "a1", "b0", "b1", "a0", "a1"]


def test_spread_and_ratio() -> None:
    assert stats.spread([]) is None
    assert stats.spread([3.0]) == {"median": 3.0, "q25": 3.0, "q75": 3.0, "runs": 1}
    assert stats.spread([1, 2, 3, 4, 5]) == {"median": 3, "q25": 2.0, "q75": 4.0, "runs": 5}
    # The machine got three times slower half way: within a round the ratio is always a half.
    assert stats.ratio([1, 1, 3, 3], [2, 2, 6, 6]) == {"median": 0.5, "low": 0.5, "high": 0.5, "runs": 4}
    wide = stats.ratio([1, 2, 3, 4, 5], [4, 4, 4, 4, 4])
    assert wide is not None
    assert 0.25 <= wide["low"] < wide["median"] == 0.75 < wide["high"] <= 1.25
    assert stats.ratio([1, 2, 3, 4, 5], [4, 4, 4, 4, 4]) == wide


def test_peak_memory_sees_what_was_freed_again() -> None:
    def work() -> None:
        torch.ones(16_000_000).sum()

    size, how = memory.measure_peak(work, torch.device("cpu"))
    assert how in ("rss-high-water", "rss-sampled", "rss-maximum")
    if how == "rss-high-water":
        assert 60e6 < size < 90e6


def test_peak_memory_is_sampled_where_the_mark_cannot_be_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_reset_high_water", lambda: False)
    kept: list[torch.Tensor] = []
    size, how = memory.measure_peak(lambda: kept.append(torch.ones(16_000_000)), torch.device("cpu"))
    if how == "rss-sampled":
        assert 0 <= size < 90e6


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "batch": ({"batch_sizes": (1, 0)}, "batch size 0 is outside"),
    "length": ({"new_tokens": (-3,)}, "new tokens -3"),
    "repeats": ({"repeats": 0}, "repeats 0"),
    "questions": ({"questions": 0}, "questions 0"),
    "threads": ({"threads": 0}, "threads 0"),
    "text": ({"text_tokens": 4}, "text tokens 4"),
    "seed": ({"seed": -1}, "seed -1"),
    "both": ({"model": "demo"}, "give --model or --random"),
    "layers": ({"layers": 3}, "outside 1 to 2"),
    "method": ({"methods": ("trim", "trimm")}, "did you mean 'trim'"),
    "budget": ({"budgets": ("0",)}, "budget"),
    "option": ({"options": {"no_such": 1}}, "no option 'no_such'"),
    "shape": ({"random": "smal"}, "did you mean 'small'"),
    "dtype": ({"dtype": "float13"}, "float13"),
    "device": ({"device": "toaster"}, "toaster"),
}


@pytest.fixture
def no_building(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RandomModel", "Checkpoint"):
        monkeypatch.setattr(run, name, lambda *_: pytest.fail("a model was built"))


@pytest.mark.usefixtures("no_building")
@pytest.mark.parametrize("case", SETTINGS)
def test_nonsense_is_refused_before_anything_is_built(case: str) -> None:
    changed, part = SETTINGS[case]
    with pytest.raises(TrimkitError, match=part) as caught:
        bench(Settings(**{"random": "small", "device": "cpu", **changed}))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_building")
def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch finds no GPU here; give"):
        bench(Settings(random="small", device="cuda"))
    assert loading.pick_device("auto") == torch.device("cpu")


@pytest.mark.usefixtures("no_building")
def test_memory_is_checked_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda _: 16_000_000_000)
    settings = {"random": "llava-1.5-13b", "device": "cpu", "dtype": "float32"}
    with pytest.raises(InputError, match=r"40 layers, batch 1, needs about 5\d\.\d GB") as caught:
        bench(Settings(**settings))
    words = str(caught.value)
    assert "16.0 GB free: give --layers " in words
    assert "--dtype bfloat16" in words
    fits = int(words.partition("--layers ")[2].partition(",")[0])
    with pytest.raises(pytest.fail.Exception, match="a model was built"):
        bench(Settings(**settings, layers=fits))
    with pytest.raises(InputError):
        bench(Settings(**settings, layers=fits + 1))
    with pytest.raises(InputError, match="batch 4000"):
        bench(Settings(**settings, layers=1, batch_sizes=(1, 4000)))


def test_free_memory_heeds_a_containers_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit, used = tmp_path / "limit", tmp_path / "used"
    limit.write_text("2000\n")
    used.write_text("500\n")
    monkeypatch.setattr(machine, "_CGROUPS", ((str(limit), str(used)),))
    assert machine.free_bytes(torch.device("cpu")) == 1500
    limit.write_text("max\n")
    free = machine.free_bytes(torch.device("cpu"))
    assert free is None or free > 1500


def test_half_precision_only_where_the_cpu_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, said = torch.device("cpu"), []
    assert machine.fast_bfloat16("flags\t\t: sse avx512_bf16 fma\n")
    assert machine.fast_bfloat16("flags : amx_bf16\n")
    assert not machine.fast_bfloat16("model name : bf16 avx512_bf16\nflags : sse avx512f\n")
    monkeypatch.setattr(machine, "fast_bfloat16", lambda: False)
    assert machine.pick_dtype("auto", cpu, said.append) is torch.float32
    assert said == []
    assert machine.pick_dtype("bfloat16", cpu, said.append) is torch.bfloat16
    assert len(said) == 1
    assert "no fast bfloat16" in said[0]
    monkeypatch.setattr(machine, "fast_bfloat16", lambda: True)
    assert machine.pick_dtype("auto", cpu, said.append) is torch.bfloat16
    assert machine.pick_dtype("bfloat16", cpu, said.append) is torch.bfloat16
    assert len(said) == 1


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    result = bench(Settings(random="small", device="cuda", repeats=2, new_tokens=(3,)))
    assert result["provenance"]["dtype"] == "bfloat16"
    for arm in result["arms"]:
        assert arm["peak_measured"] == "cuda-allocator"
        assert arm["peak_bytes"] > arm["kv_bytes"] == arm["kv_bytes_formula"]
        assert arm["flops"] == arm["flops_formula"]
