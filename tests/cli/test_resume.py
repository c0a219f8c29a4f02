"""An evaluation that is killed, three times, comes out as one that is not; and what cannot be asked is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.checkpoint import save_small
from tests.cli.conftest import Cli

N = 48


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("small"))


def arguments(model: Path, *more: str) -> list[str]:
    options = {"--model": str(model), "--method": "random,none", "--budget": "4", "--n": str(N), "--batch-size": "4"}
    return ["eval", "scenes", *(part for pair in options.items() for part in pair), "--json", *more]


def rows(path: Path) -> int:
    return path.read_bytes().count(b"\n") - 1 if path.is_file() else -1


def start(line: list[str]) -> subprocess.Popen[str]:
    code = "import torch, trimkit.cli; torch.set_num_threads(1); trimkit.cli.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def killed_at(path: Path, count: int, line: list[str]) -> int:
    """Run until so many rows are on the disk, then kill -9; the number of rows that are there afterwards."""
    running = start(line)
    while rows(path) < count and running.poll() is None:
        time.sleep(0.002)
    os.kill(running.pid, signal.SIGKILL)
    _, err = running.communicate()
    assert running.returncode == -signal.SIGKILL, err
    return rows(path)


def test_killed_three_times(small: Path, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "run.jsonl"
    line = arguments(small, "--resume", str(path))
    done = [killed_at(path, count, line) for count in (4, N // 2, N + 8)]
    assert 4 <= done[0] < done[1] < done[2] < 2 * N
    with path.open("a", encoding="utf-8") as file:
        file.write('{"task": "scenes/')  # a fourth, in the middle of a line
    finished = start(line)
    out, err = finished.communicate()
    assert (finished.returncode, err) == (0, "")
    ids = [tuple(json.loads(each)[key] for key in ("task", "id")) for each in path.read_text().splitlines()[1:]]
    assert len(ids) == len(set(ids)) == 2 * N
    assert json.loads(out) == json.loads(cli(*arguments(small)).out)


def test_a_finished_run_asks_nothing(small: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    line = arguments(small, "--resume", str(tmp_path / "run.jsonl"))
    first = cli(*line)
    monkeypatch.setattr("trimkit.eval.scenes.answer", None)
    assert cli(*line) == first


def test_answers_of_other_weights_are_not_taken(tmp_path: Path, cli: Cli) -> None:
    model = save_small(tmp_path / "model")
    line = arguments(model, "--resume", str(tmp_path / "run.jsonl"))
    assert cli(*line).code == 0
    weights = model / "model.safetensors"
    tensors = load_file(weights)
    tensors["language_model.model.norm.weight"] *= 0.5
    save_file(tensors, weights, {"format": "pt"})
    assert cli(*line).code == 0
    assert rows(tmp_path / "run.jsonl") == 2 * 2 * N


def test_other_settings_are_one_line(small: Path, tmp_path: Path, cli: Cli) -> None:
    line = arguments(small, "--resume", str(tmp_path / "run.jsonl"))
    assert cli(*line).code == 0
    outcome = cli(*line, "--seed", "7")
    assert (outcome.code, outcome.out) == (2, "")
    assert "was written with seed 1, this run has 7: give the same settings, or another file" in outcome.err
    assert outcome.err.count("\n") == 1


def test_over_long_questions_are_named(tmp_path: Path, cli: Cli) -> None:
    """With 40 positions and 4 image tokens, long multiple-choice questions do not fit, short ones do."""
    model = save_small(tmp_path / "narrow", context=40)
    found: dict[str, Any] = json.loads(cli(*arguments(model), "--method", "random").out)
    assert 0 < len(found["skipped"]) < N
    assert found["n"] + len(found["skipped"]) == N
    assert all("after reduction, and the model's context holds 40" in row["reason"] for row in found["skipped"])
    shown = cli(*[part for part in arguments(model) if part != "--json"], "--method", "random").out
    assert f"question {found['skipped'][0]['id']} is skipped: its prompt has" in shown
    outcome = cli(*arguments(save_small(tmp_path / "none", context=8)), "--method", "random")
    assert (outcome.code, "none of the questions could be asked: its prompt has" in outcome.err) == (2, True)
