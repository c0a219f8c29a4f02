"""``make gpu``: steps that fail or take too long are said to, and the rest goes on; all of them run dry on a CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_tables
from benchmarks.gpu import __main__ as script
from benchmarks.gpu.steps import STEPS, Run, Step

OF = {step.name: step for step in STEPS}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    assert script.main() == 0


def test_all_of_it_fits_into_eight_minutes() -> None:
    assert sum(step.seconds for step in STEPS) <= script.LIMIT - 5


def test_a_step_that_fails_says_so_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(given: Run) -> None:
        given.write(found=1)
        raise RuntimeError("the GPU fell off")

    monkeypatch.setattr(script, "STEPS", (Step("bad", 1, broken), Step("good", 1, lambda given: given.write(found=2))))
    target = tmp_path / "gpu.json"
    run(monkeypatch, "--dry-run", "--out", str(target))
    steps = json.loads(target.read_text())["steps"]
    assert (steps["bad"]["status"], steps["bad"]["why"]) == ("failed", "RuntimeError: the GPU fell off")
    assert steps["bad"]["parts"] == [{"found": 1}], "what it had found is kept"
    assert (steps["good"]["status"], steps["good"]["parts"]) == ("done", [{"found": 2}])
    assert "bad: failed, RuntimeError: the GPU fell off" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_step_says_that(tmp_path: Path) -> None:
    found = script.run_step(OF["waits"], 300, tmp_path / "gpu.json")
    assert found["status"] == "failed"
    assert "torch finds no GPU here" in found["why"]


def test_a_step_is_stopped_when_its_time_is_over(tmp_path: Path) -> None:
    found = script.run_step(OF["waits"], 0.3, tmp_path / "gpu.json")
    assert (found["status"], found["parts"]) == ("out of time", [])


def test_an_unknown_step_and_a_directory_without_wheels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--only", "chosing")
    with pytest.raises(SystemExit, match="has no wheels"):
        script.install(tmp_path)


def test_rows_say_not_run_until_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tables, "load", lambda name: None)
    for make in gpu_tables.TABLES.values():
        text = make()
        rows = [line for line in text.splitlines() if line.startswith("|")][2:]
        assert rows
        assert all("not run" in row for row in rows)
        assert "*Not measured yet: `python -m benchmarks.gpu`" in text


def test_choosing_runs_dry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "--dry-run", "--only", "choosing", "--out", str(tmp_path / "gpu.json"))
    step = json.loads((tmp_path / "gpu.json").read_text())["steps"]["choosing"]
    assert step["status"] == "done", step["why"]
    assert len(step["parts"]) == 15


@pytest.mark.slow
def test_every_step_runs_dry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "gpu.json"
    run(monkeypatch, "--dry-run", "--out", str(target))
    record = json.loads(target.read_text())
    assert {name: step["status"] for name, step in record["steps"].items()} == dict.fromkeys(OF, "done")
    assert all(step["parts"] for step in record["steps"].values())
    assert record["provenance"]["hardware"]["device"] == "cpu"
    # The same records fill the tables: as if the dry run's sizes were those of the tables.
    monkeypatch.setattr(gpu_tables, "load", lambda name: {**record, "config": {"dry_run": False}})
    monkeypatch.setattr(gpu_tables, "SHAPES", [("small", "trim", 2, 2)])
    monkeypatch.setattr(gpu_tables, "CLAIM", [("small", "trim", 2, 2)])
    monkeypatch.setattr(gpu_tables, "COMPILED", [(2, 21), (2, 100)])
    monkeypatch.setattr(gpu_tables, "WAITS", [("trim", "21", 2), ("trim", "iqr", 2)])
    monkeypatch.setattr(gpu_tables, "CHOOSING", [("trim", 36, 1)])
    monkeypatch.setattr(gpu_tables, "ADDED", [("trim", 2)])
    monkeypatch.setattr(gpu_tables, "KERNELS", [("relevant_and_new", 36, 2)])
    for name, make in gpu_tables.TABLES.items():
        assert make().count("not run") == (name == "gpu-kernels"), "there is no CUDA graph on a CPU"


def test_runs_of_some_steps_each_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, step in (("a", "choosing"), ("b", "tests")):
        run(monkeypatch, "--dry-run", "--only", step, "--out", str(tmp_path / f"{name}.json"))
    paths = [str(tmp_path / f"{name}.json") for name in "ab"]
    run(monkeypatch, "--merge", *paths, "--out", str(tmp_path / "gpu.json"))
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    done = [name for name, step in steps.items() if step["status"] == "done"]
    assert sorted(done) == ["choosing", "tests"]
