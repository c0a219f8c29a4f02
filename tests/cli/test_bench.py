"""``trimkit bench``: what it prints and writes, and one line for what it cannot measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Cli
from tests.cli.test_errors import assert_one_line
from trimkit.bench import machine, measure, run

QUICK = ("--device", "cpu", "--dtype", "float32", "--repeats", "1")


@pytest.fixture(autouse=True)
def _few_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_PEAK_RUNS", 1)


def test_a_random_shape(cli: Cli, tmp_path: Path) -> None:
    target, picture = tmp_path / "out.json", tmp_path / "times.svg"
    arguments = ("--random", "small", "--method", "trim,random", "--budget", "20,0.5", "--threads", "1", *QUICK)
    outcome = cli("bench", *arguments, "--json", "-o", str(target), "--plot", str(picture))
    assert (outcome.code, outcome.err) == (0, "")
    printed = json.loads(outcome.out)
    assert json.loads(target.read_text()) == printed
    assert set(printed) == {"arms", "ratios", "memory", "capacity", "provenance"}
    arms = [(arm["method"], arm["budget"], arm["image_tokens"]) for arm in printed["arms"]]
    reduced = [(name, *each) for name in ("trim", "random") for each in ((20, 20), (0.5, 50))]
    assert arms == [("none", 1.0, 100), *reduced]
    assert printed["provenance"]["threads"] == 1
    assert picture.read_text().startswith("<svg")


def test_a_preset_is_a_shape_and_its_setting(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[run.Settings] = []

    def stop(settings: run.Settings, **_: object) -> None:
        wanted.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "bench", stop)
    assert cli("bench", "ask").code == 130
    assert cli("bench", "ask", "--random", "small", "--dtype", "auto").code == 130
    found = [(each.random, each.device, each.dtype) for each in wanted]
    assert found == [("clip-l-336", "cpu", "float32"), ("small", "cpu", "auto")]


def test_the_papers_claim_is_one_command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both lengths of reply, all layers on a GPU and two on a CPU; what is given beside it wins."""
    wanted: list[run.Settings] = []
    measured = run.bench
    monkeypatch.setattr(run, "bench", lambda settings, **_: wanted.append(settings) or pytest.fail("measured"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(pytest.fail.Exception):
        cli("bench", "claim", "--random", "llava-1.5-13b")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(pytest.fail.Exception):
        cli("bench", "claim")
    with pytest.raises(pytest.fail.Exception):
        cli("bench", "claim", "--config", "own.json")  # which names method and budget
    configured = wanted.pop()
    assert (configured.methods, configured.budgets, configured.config) == (None, None, "own.json")
    found = [(each.random, each.layers, each.budgets, each.new_tokens, each.repeats) for each in wanted]
    assert found == [("llava-1.5-13b", None, ("121",), (5, 128), 9), ("llava-1.5-7b", 2, ("121",), (5, 128), 3)]
    monkeypatch.setattr(run, "bench", measured)
    small = ("--random", "small", "--layers", "1", "--budget", "21", "--new-tokens", "2")
    outcome = cli("bench", "claim", *small, *QUICK)
    assert outcome.code == 0
    assert "extrapolated to 2 layers" in outcome.out
    assert "memory with the weights x " in outcome.out
    assert outcome.out.splitlines()[-1].startswith("the paper (arXiv 2409.10994): 79 % fewer image tokens")


def test_patches_dropped_in_the_tower_are_an_arm(cli: Cli) -> None:
    arguments = ("--random", "small", "--method", "trim,random", "--budget", "20", "--tower-keep", "1.0,0.5", *QUICK)
    printed = json.loads(cli("bench", *arguments, "--json").out)
    arms = {(arm["method"], arm["tower_keep"]): arm for arm in printed["arms"]}
    assert list(arms) == [("none", None), ("trim", None), ("trim", 0.5), ("random", None)]
    assert [arm["image_tokens"] for arm in arms.values()] == [100, 20, 20, 20]
    assert [arm["tower_layers"] for arm in arms.values()] == [3, 2, 2, 2]  # what nobody reads is not run
    vision = {key: arm["flops_by_stage"]["vision"] for key, arm in arms.items()}
    assert vision["trim", 0.5] < vision["trim", None] < vision["none", None]
    assert "trim, tower 0.5" in cli("bench", *arguments).out


def test_the_demo_model_as_a_table(cli: Cli) -> None:
    outcome = cli("bench", "--budget", "60", *QUICK)
    assert (outcome.code, outcome.err) == (0, "")
    rows = [line.split() for line in outcome.out.splitlines()]
    assert outcome.out.startswith("demo, float32, cpu")
    assert [row[2] for row in rows if row[:1] in (["full"], ["trim"]) and row[2].isdigit()] == ["576", "60"]


def test_slow_arithmetic_is_warned_of_in_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "fast_bfloat16", lambda: False)
    half = ("--device", "cpu", "--dtype", "bfloat16", "--repeats", "1")
    outcome = cli("bench", "--random", "small", "--method", "none", *half, "--json")
    assert outcome.code == 0
    assert outcome.err.startswith("trimkit: this CPU has no fast bfloat16")
    assert outcome.err.count("\n") == 1
    assert json.loads(outcome.out)["provenance"]["dtype"] == "bfloat16"


ARGUMENTS = {
    "shape": (["--random", "llava-1.5-8b"], "did you mean 'llava-1.5-7b'"),
    "layers": (["--random", "small", "--layers", "99"], "outside 1 to 2"),
    "layers of a model": (["--layers", "2"], "--random"),
    "preset": (["aks"], "preset 'aks' is not known"),
    "preset and model": (["ask", "--model", "demo"], "leave --model out"),
    "no preset and model": (["aks", "--model", "demo"], "preset 'aks' is not known"),
    "tower": (["--random", "small", "--tower-keep", "half"], "is not a share"),
    "tower out of range": (["--random", "small", "--tower-keep", "1.5"], "outside (0, 1]"),
    "both": (["--random", "small", "--model", "demo"], "--model or --random"),
    "method": (["--random", "small", "--method", "trimm"], "did you mean 'trim'"),
    "budget": (["--random", "small", "--budget", "0.2,-1"], "budget"),
    "repeats": (["--random", "small", "--repeats", "0"], "repeats 0"),
    "lengths": (["--random", "small", "--new-tokens", "1,x"], "--new-tokens"),
    "batches": (["--random", "small", "--batch-size", "1,"], "--batch-size"),
    "batch": (["--random", "small", "--batch-size", "-1"], "batch size -1"),
    "model": (["--model", "/no/such/model"], "no model directory"),
    "plot": (["--random", "small", "--plot", "x.pdf"], ".png or .svg"),
    "output": (["--random", "small", "-o", "/no/such/folder/x.json"], "cannot write"),
    "dtype": (["--random", "small", "--dtype", "int8"], "int8"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_nonsense(case: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "RandomModel", lambda *_: pytest.fail("built"))
    arguments, part = ARGUMENTS[case]
    assert_one_line(cli("bench", "--device", "cpu", *arguments), part)


def test_no_gpu_and_no_memory(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "RandomModel", lambda *_: pytest.fail("built"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_one_line(cli("bench", "--random", "small", "--device", "cuda"), "no GPU")
    monkeypatch.setattr(machine, "free_bytes", lambda _: 5_000_000_000)
    monkeypatch.setattr(machine, "fast_bfloat16", lambda: False)
    large = ("bench", "--random", "llava-1.5-13b", "--dtype", "bfloat16")
    assert_one_line(cli(*large), "needs about", "5.0 GB free", "--layers")
