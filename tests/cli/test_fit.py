"""`trimkit fit` on the command line: one line for what cannot be, and JSON of a small fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.calibration import QUESTIONS, write_checkpoint, write_spots
from tests.cli.conftest import Cli


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_spots(tmp_path / "pictures", 3)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "scorer"), "too few to fit"),
        ((), "needs a folder for its work"),
        (("-o", "pictures"), "is there already"),
        (("-o", "scorer", "--target", "luck"), "choose among attention, answer"),
        (("-o", "scorer", "--questions", "none.txt"), "none.txt"),
    ],
)
def test_what_cannot_be_is_one_line(words: tuple[str, ...], said: str, cli: Cli, here: Path) -> None:
    outcome = cli("fit", "--images", "pictures", *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert "unexpected" not in outcome.err
    assert sorted(each.name for each in here.iterdir()) == ["pictures"]


def test_a_folder_that_cannot_be_written_is_said_before_the_model_is_asked(cli: Cli, here: Path) -> None:
    write_spots(here / "pictures", 40)
    outcome = cli("fit", "--images", "pictures", "--work", "pictures/00.png")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "pictures/00.png" in outcome.err


def test_a_small_fit_says_what_it_took_and_what_came_out(cli: Cli, here: Path) -> None:
    write_spots(here / "pictures", 40)
    write_checkpoint(here / "model")
    (here / "q.txt").write_text("\n".join(QUESTIONS), encoding="utf-8")
    sizes = ("--per-image", "1", "--steps", "1", "--max-new-tokens", "1", "--target", "attention", "--force")
    words = ("--images", "pictures", "--questions", "q.txt", "--model", "model", "-o", "scorer", *sizes)
    outcome = cli("fit", *words, "--json")
    assert outcome.code == 0, outcome.err
    said = json.loads(outcome.out)
    assert "min (" in outcome.err
    assert said["written"] == str(here / "scorer")
    assert said["data"]["guard"] == 8
    assert set(said["guard"]) >= {"better", "difference", "ci95"}
    again = cli("fit", *words)
    assert (again.code, "is there already" in again.err) == (2, True)
