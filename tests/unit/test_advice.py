"""``trimkit advise``: its arithmetic against every measured ratio, what it says, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import trimkit.cli
from benchmarks import advice_check
from trimkit.advice import here
from trimkit.advice.advise import HELPS, Question, advise
from trimkit.advice.calls import calls_of
from trimkit.advice.devices import DEVICES, device_of
from trimkit.advice.model import model_of, with_picture
from trimkit.bench.shapes import SHAPES
from trimkit.errors import ConfigError, InputError, UnknownNameError, UnsupportedError
from trimkit.methods import get_method, method_classes

# Three runs, whose ratios lie between 0.319 and 1.690.
NOISE = {("bench_claim", "llava-1.5-7b", 2, 128, "ttft_s")}


def ask(device: str = "h100", shape: str = "llava-1.5-7b", **more: Any) -> dict[str, Any]:
    chosen = DEVICES[device]
    return advise(Question(SHAPES[shape], chosen, next(iter(chosen.rates)), **more))


def test_every_measured_ratio() -> None:
    rows = [row for row in advice_check.everything() if row["file"] != "gpu"]
    files = {path.stem for path in advice_check.RESULTS.glob("bench_*.json")}
    assert {row["file"] for row in rows} | set(advice_check.NOT_COMPARED) == files | set(advice_check.NOT_COMPARED)
    about = advice_check.summary(rows)
    assert about["win_right"] == about["ratios"] > 100
    keys = ("file", "shape", "layers", "new_tokens", "what")
    for row in about["outside"]:
        assert tuple(row[key] for key in keys) in NOISE, row
        assert row["low"] <= row["predicted"] <= row["high"], "not even that measurement contradicts it"


def test_most_ratios_of_a_gpu() -> None:
    """On a slow and uneven host: docs/efficiency.md."""
    rows = advice_check.on_gpu()
    about = advice_check.summary(rows)
    assert about["within"] >= 0.8 * about["ratios"] > 20
    assert about["median_error"] < 0.1
    for row in rows:
        near = 0.89 <= row["measured"] < 0.95 or row["low"] < 0.95 < row["high"]
        assert row["right"] or near, "a win that launches explain nothing of"


def test_a_wrong_device_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: a processor that reads memory a hundred times too slowly does not pass."""
    slow = replace(DEVICES["epyc-core"], bandwidth=2e8, cache=5e7)
    monkeypatch.setitem(DEVICES, "epyc-core", slow)
    record = json.loads((advice_check.RESULTS / "bench_claim.json").read_text())
    about = advice_check.summary(list(advice_check.compared("bench_claim", record)))
    assert about["within"] < 0.8 * about["ratios"]


def test_one_short_request_waits_for_launches_and_more_of_them_do_not() -> None:
    alone = ask(new_tokens=1, clients=1, method="random", tokens=29)
    many = ask(new_tokens=1, clients=32, method="random", tokens=29)
    compiled = ask(new_tokens=1, clients=32, method="random", tokens=29, compiled=True)
    assert alone["full"]["waiting_for_launches"] < alone["reduced"]["waiting_for_launches"]
    assert many["prefill_speedup"] > alone["prefill_speedup"]
    assert compiled["reduced"]["seconds"] < many["reduced"]["seconds"]


def test_where_it_does_not_help_the_line_says_why_and_what_would() -> None:
    found = ask(device="h200", new_tokens=256)
    assert not found["helps"]
    assert found["speedup"] < HELPS
    assert found["limit"] in ("launches", "decode")
    assert "expect 1.0x" in found["verdict"]
    assert found["remedies"], "many clients at a time"
    assert all(each["speedup"] >= HELPS for each in found["remedies"])
    assert "\n" not in found["verdict"]


@pytest.mark.parametrize("method", [name for name, each in method_classes() if each.stage == "llm"])
@pytest.mark.parametrize("shape", ["llava-1.5-7b", "llava-next-7b", "qwen2.5-vl-7b"])
def test_methods_that_drop_tokens_within_the_language_model(method: str, shape: str) -> None:
    found = ask(shape=shape, method=method, clients=8)
    assert 0.9 < found["prefill_speedup"] < 12


def test_where_it_helps_the_line_says_by_how_much() -> None:
    found = ask(device="l4", new_tokens=1, clients=8)
    assert found["helps"]
    assert found["limit"] is None
    assert found["verdict"].endswith(f"expect {found['speedup']:.1f}x")
    assert sum(found["full"]["shares"].values()) == pytest.approx(1.0)
    speedups = [each["speedup"] for each in found["budgets"]]
    assert speedups == sorted(speedups, reverse=True), "fewer tokens, more speed"
    most = [each["most_requests"] for each in found["budgets"]]
    assert most == sorted(most, reverse=True)
    assert found["memory"]["reduced_most"] > 2 * found["memory"]["full_most"]


def test_calls_are_counted_and_a_greedy_method_adds_some_for_every_token() -> None:
    stock, random = calls_of("llava", None), calls_of("llava", get_method("random"))
    assert (stock.added, stock.waits) == (0, 0)
    assert stock.layer > 10
    assert stock.tower_layer > 5
    assert random.added > 0 == random.added_token


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_has_its_source(name: str) -> None:
    device = device_of(name)
    assert device.source
    assert device.date[:2] == "20"
    assert device.bandwidth > 0 < min(rate.flops for rate in device.rates.values())
    with pytest.raises(ConfigError, match="has no figures for"):
        device.rate("int4")


def test_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "_WIDTH", 128)
    monkeypatch.setattr(here, "fast_bfloat16", lambda: False)
    found = here.measured(torch.device("cpu"))
    assert set(found.rates) == {"float32"}
    assert found.rates["float32"].flops > 1e8
    assert found.bandwidth > 1e7 < found.cache
    assert 0 < found.launch_s < 0.1


def test_models() -> None:
    demo = model_of("demo")
    assert (demo.kind, demo.image_tokens) == ("llava", 576)
    with pytest.raises(UnknownNameError, match="did you mean 'llava-next-7b'"):
        model_of("llava-nxt-7b")


def test_a_checkpoints_config_is_read(tmp_path: Path) -> None:
    from trimkit.bench.build import llava_config

    for name in ("llava-next-7b", "qwen2.5-vl-7b", "qwen3-vl-8b", "llava-onevision-7b"):
        llava_config(SHAPES[name]).save_pretrained(tmp_path / name)
        read = model_of(str(tmp_path / name))
        assert replace(read, head=SHAPES[name].head, kv_heads=SHAPES[name].kv_heads, picture=(0, 0)) == replace(
            SHAPES[name], vision_inner=read.vision_inner, image_size=read.image_size, picture=(0, 0)
        )
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UnsupportedError, match="no arithmetic for model type 'bert'"):
        model_of(str(tmp_path / "bert"))


def test_pictures() -> None:
    assert with_picture(SHAPES["llava-1.5-7b"], 1280, 960).image_tokens == 576
    assert with_picture(SHAPES["llava-next-7b"], 2000, 2000).tiles == (2, 2)
    assert with_picture(SHAPES["qwen2.5-vl-7b"], 1120, 896).image_tokens == 1280
    with pytest.raises(InputError, match="outside 16 to 16384"):
        with_picture(SHAPES["qwen2.5-vl-7b"], 1, 1)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["advise", "llava-1.5-7b", "--device", "l4", "--method", "random", "--new-tokens", "5"]
    assert trimkit.cli.run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert trimkit.cli.run(arguments) == 0
    said = capsys.readouterr().out
    assert found["verdict"] in said
    assert "NVIDIA L4 datasheet" in said
    assert "predicted, not measured" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "h10"], "unknown device 'h10': did you mean 'h100'?"),
        (["gpt-4"], "unknown model 'gpt-4'"),
        (["--picture", "large"], "--picture 'large' is not WIDTHxHEIGHT"),
        (["--budget", "577"], "budget 577 is outside 1 to 576"),
        (["--clients", "0"], "clients 0 is outside"),
        (["--method", "trimm"], "did you mean 'trim'"),
        (["--method", "none", "--clients", "8"], "method 'none' drops nothing"),
        (["--threads", "1"], "--threads is for --device here"),
        (["--dtype", "float64"], "has no figures for float64"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert trimkit.cli.run(["advise", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
