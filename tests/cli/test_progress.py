"""Long commands speak without a terminal: how far, how long it still takes; short ones print nothing."""

from __future__ import annotations

import re
import time

import pytest

from tests.cli.conftest import Cli
from trimkit.cli import _progress


@pytest.fixture
def impatient(patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "_FIRST", 0.05)
    monkeypatch.setattr(_progress, "_LATER", (0.05,))


def test_a_line_now_and_then_with_what_is_left(impatient: None, capsys: pytest.CaptureFixture[str]) -> None:
    with _progress.progress("suite", 40, "loading the model") as advance:
        time.sleep(0.09)
        for _ in range(10):
            advance(1)
            time.sleep(0.02)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "trimkit: suite: 0 of 40 (0%) after 0 s (loading the model); how long it takes is known after the first"
    )
    assert len(lines) >= 3
    assert re.fullmatch(r"trimkit: suite: \d+ of 40 \(\d+%\) after \d+ s, about \d+ s left", lines[-1])


def test_what_is_left_is_what_steps_took_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    lines = _progress._Lines("bench", 100, "")
    now[0] = 130.0
    lines.advance(10)
    assert lines.line() == "bench: 10 of 100 (10%) after 30 s, about 4 min left"
    now[0] = 160.0
    assert lines.line() == "bench: 10 of 100 (10%) after 60 s, about 4 min left", (
        "one long step does not add to the others"
    )
    now[0] = 1000.0
    assert lines.line().endswith("about 0 s left")
    lines.advance(-9)
    assert re.search(r"about 24\.8 h left", lines.line())


def test_one_repeat_of_a_benchmark_is_not_silent(impatient: None, cli: Cli) -> None:
    outcome = cli("bench", "--random", "small", "--device", "cpu", "--dtype", "float32", "--repeats", "1", "--json")
    assert outcome.code == 0
    lines = outcome.err.splitlines()
    assert lines
    assert all(line.startswith("trimkit: bench: ") for line in lines)


def test_a_short_command_prints_nothing(cli: Cli) -> None:
    outcome = cli("eval", "scenes", "--n", "1", "--method", "random", "--budget", "20", "--json")
    assert (outcome.code, outcome.err) == (0, "")
