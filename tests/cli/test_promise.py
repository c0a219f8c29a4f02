"""``trimkit calibrate --risk``: the promise, its config, and what is too little for one."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.checkpoint import save_small
from tests.cli.conftest import Cli
from tests.cli.test_errors import assert_one_line
from trimkit.demo import demo_model_path
from trimkit.demo.items import sample_item

QUICK = ("--max-new-tokens", "2", "--batch-size", "8")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_small(tmp_path_factory.mktemp("checkpoints") / "small"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(24):
        sample_item(5, number)[0].resize((56, 56)).save(folder / f"{number:02d}.png")
    return folder


def calibrate(cli: Cli, small: str, pictures: Path, *more: str) -> Any:
    line = ("calibrate", "--images", str(pictures), "--model", small, "--method", "uniform", *QUICK)
    return cli(*line, *more)


def test_a_promise_is_proved_and_kept_by_its_config(cli: Cli, small: str, pictures: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    outcome = calibrate(cli, small, pictures, "--risk", "0.3", "--confidence", "0.9", "-o", str(config), "--json")
    said = json.loads(outcome.out)
    assert (said["risk"], said["confidence"]) == (0.3, 0.9)
    assert said["pictures"]["choosing"] + said["pictures"]["proving"] == 24
    assert said["chosen"]["proved"]
    assert said["chosen"]["p_value"] <= 0.1
    assert said["chosen"]["image_tokens"] <= said["image_tokens_full"] == 16
    assert "at most 30 %" in said["promise"] or "everything stays" in said["promise"]
    asked = json.loads(cli("ask", "scene1", "What?", "--model", small, "--config", str(config), "--json").out)
    assert asked["image_tokens_kept"] <= 2 * 16
    fallback = json.loads(config.read_text())["reduce"].get("fallback")
    assert (fallback is None) == ("threshold" not in said["chosen"] or said["chosen"]["threshold"] == "none")


def test_the_table_is_readable(cli: Cli, small: str, pictures: Path) -> None:
    outcome = calibrate(cli, small, pictures, "--risk", "0.3", "--confidence", "0.9", "--no-fallback")
    lines = outcome.out.splitlines()
    assert "pictures chose what is tried" in lines[0]
    assert any(line.startswith("promise   ") for line in lines)
    assert "asked again   0.0%" in lines[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--risk", "0.02"), "needs 149 to prove it"),
        (("--risk", "0"), "risk 0.0 is not strictly between 0 and 1"),
        (("--risk", "nan"), "risk nan"),
        (("--risk", "0.3", "--confidence", "1"), "confidence 1.0"),
        (("--risk", "0.3", "--confidence", "0.9", "--measure", "hope"), "hope"),
        (("--risk", "0.3", "--confidence", "0.9", "--method", "none"), "drops no image tokens"),
    ],
)
def test_what_cannot_be_promised_is_one_line(
    cli: Cli, small: str, pictures: Path, tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    target = tmp_path / "config.json"
    assert_one_line(calibrate(cli, small, pictures, *given, "-o", str(target)), said)
    assert not target.exists()


def killed_after(path: Path, count: int, line: list[str]) -> int:
    """Run the command until so many questions are on the disk, then kill it; how many are there."""
    code = "import torch, trimkit.cli; torch.set_num_threads(1); trimkit.cli.main()"
    running = subprocess.Popen([sys.executable, "-c", code, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while lines_of(path) < count and running.poll() is None:
        time.sleep(0.002)
    running.kill()
    running.communicate()
    return lines_of(path)


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def test_a_killed_calibration_goes_on_and_comes_out_the_same(
    cli: Cli, small: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that is on the disk is asked again."""
    given = ("--risk", "0.3", "--confidence", "0.9", "--json")
    whole = json.loads(calibrate(cli, small, pictures, *given).out)
    path = tmp_path / "book.jsonl"
    line = ["calibrate", "--images", str(pictures), "--model", small, "--method", "uniform", *QUICK, *given]
    done = killed_after(path, 40, [*line, "--resume", str(path)])
    assert done >= 40
    resumed = json.loads(calibrate(cli, small, pictures, *given, "--resume", str(path)).out)
    timed = ("seconds", "settings")
    assert {key: resumed[key] for key in resumed if key not in timed} == {
        key: whole[key] for key in whole if key not in timed
    }
    assert lines_of(path) > done or done > 200
    monkeypatch.setattr("trimkit.calibration._measure.Probe.generate", None)  # all is on the disk
    again = json.loads(calibrate(cli, small, pictures, *given, "--resume", str(path)).out)
    assert again["curve"] == whole["curve"]


def test_a_book_of_another_way_of_asking_is_refused(cli: Cli, small: str, pictures: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "book.jsonl")
    given = ("--risk", "0.3", "--confidence", "0.9", "--resume", path)
    assert calibrate(cli, small, pictures, *given).code == 0
    assert_one_line(calibrate(cli, small, pictures, *given, "--max-new-tokens", "3"), "max_new_tokens")
    line = ("calibrate", "--images", str(pictures), "--model", small, "--method", "uniform", *QUICK)
    assert_one_line(cli(*line, "--resume", path), "--resume goes with --risk")


def test_right_answers_are_what_is_not_to_be_lost(cli: Cli, small: str, pictures: Path, tmp_path: Path) -> None:
    names = sorted(each.name for each in pictures.iterdir())
    given = ("--risk", "0.3", "--confidence", "0.9", "--measure", "task-metric", "--json")
    assert_one_line(calibrate(cli, small, pictures, *given), "needs right answers")
    rows = [{"image": name, "question": "What?", "answer": "seventeen"} for name in names]
    labelled, partly = tmp_path / "labelled.jsonl", tmp_path / "partly.jsonl"
    labelled.write_text("\n".join(map(json.dumps, rows)))
    partly.write_text("\n".join(map(json.dumps, [*rows[:-1], {"image": names[-1], "question": "What?"}])))
    said = json.loads(calibrate(cli, small, pictures, *given, "--questions", str(labelled)).out)
    assert "answers turn from right to wrong" in said["promise"]
    assert any("no answer is right with all tokens" in note for note in said["notes"])
    assert any("all labels are one and the same" in note for note in said["notes"])
    assert_one_line(calibrate(cli, small, pictures, *given, "--questions", str(partly)), "has no label")


def test_a_model_whose_scores_are_no_numbers_is_promised_nothing(
    cli: Cli, small: str, pictures: Path, tmp_path: Path
) -> None:
    broken, target = tmp_path / "broken", tmp_path / "config.json"
    shutil.copytree(small, broken)
    weights = load_file(broken / "model.safetensors")
    name = next(each for each in weights if "lm_head" in each or "embed_tokens" in each)
    save_file({**weights, name: weights[name] * math.nan}, broken / "model.safetensors", {"format": "pt"})
    given = ("--risk", "0.3", "--confidence", "0.9", "-o", str(target))
    assert_one_line(calibrate(cli, str(broken), pictures, *given), "not finite")
    assert not target.exists()


def test_a_fallback_asks_again(cli: Cli, small: str) -> None:
    line = ("ask", "scene1", "What?", "--model", small, "--method", "uniform", "--budget", "4", "--max-new-tokens", "2")
    once = cli(*line, "--fallback", "full", "--threshold", "-1").out
    again = cli(*line, "--fallback", "full", "--threshold", "2").out
    assert "4 of 16 image tokens" in once
    assert "sure at once" in once
    assert "20 of 16 image tokens" in again
    assert "asked again with all tokens" in again
    assert_one_line(cli(*line, "--threshold", "0.5"), "--fallback full")
    assert_one_line(cli(*line, "--fallback", "half"), "'half' is not known")


def test_the_scorer_of_a_promise_is_that_of_its_config(cli: Cli, small: str, pictures: Path, tmp_path: Path) -> None:
    """What was proved with one scorer says nothing of another."""
    config, own = tmp_path / "config.json", str(demo_model_path() / "clip")
    line = ("calibrate", "--images", str(pictures), "--model", small, "--method", "focus", *QUICK, "--scorer", own)
    assert cli(*line, "--risk", "0.3", "--confidence", "0.9", "-o", str(config)).code == 0
    said = json.loads(config.read_text())["reduce"]
    assert said["method"] == "none" or said["scorer"] == own
    config.write_text(json.dumps({"version": 1, "reduce": {"method": "focus", "budget": 4, "scorer": "missing/"}}))
    line = ("ask", "scene1", "What?", "--model", small, "--config", str(config))
    assert "missing" in cli(*line).err
    assert cli(*line, "--scorer", own).code == 0
    outcome = cli("eval", "scenes", "--n", "1", "--model", small, "--config", str(config))
    assert "reduces without the config's scorer" in outcome.err


def test_a_threshold_given_beside_a_config_holds_for_every_rung(cli: Cli, small: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    fallback = {"threshold": -1.0, "ladder": [8], "thresholds": [-1.0], "agreed": [-1.0]}
    config.write_text(
        json.dumps({"version": 1, "reduce": {"method": "uniform", "budget": 4, "fallback": fallback}}), encoding="utf-8"
    )
    line = ("ask", "scene1", "What?", "--model", small, "--config", str(config), "--max-new-tokens", "2")
    assert "4 of 16 image tokens" in cli(*line).out
    assert "28 of 16 image tokens" in cli(*line, "--threshold", "2").out  # 4, 8 and all 16


def test_a_command_that_cannot_fall_back_says_so(cli: Cli, small: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"version": 1, "reduce": {"method": "uniform", "budget": 4, "fallback": {"threshold": 0.5}}}')
    outcome = cli("eval", "scenes", "--n", "1", "--model", small, "--config", str(config))
    assert outcome.code == 0
    assert "reduces without the config's fallback" in outcome.err


def test_the_suite_compares_an_arm_with_its_fallback(cli: Cli, small: str) -> None:
    words = ("eval", "suite", "--n", "4", "--batch-size", "2", "--method", "uniform", "--budget", "4", "--model", small)
    said = json.loads(cli(*words, "--fallback", "full", "--threshold", "2", "--json").out)
    full, alone, again = said["arms"]
    assert [each["label"] for each in said["arms"]] == ["none", "uniform@4", "uniform@4+fallback"]
    assert [each["image_tokens_kept_mean"] for each in said["arms"]] == [16, 4, 20]
    assert again["asked_again"] == 1.0
    assert again["seconds_mean"] > 0
    assert again["hits"] == full["hits"]
    assert "asked_again" not in alone


def test_a_server_watches_only_what_was_promised(cli: Cli, small: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"version": 1, "reduce": {"method": "uniform", "budget": 4}}')
    line = ("serve", small, "--engine", "transformers", "--recheck", "0.01")
    assert_one_line(cli(*line), "--recheck watches a promise")
    assert_one_line(cli(*line, "--config", str(config)), "--recheck watches a promise")
    assert_one_line(cli(*line, "--risk", "2"), "strictly between 0 and 1")
    said = {"risk": 0.02, "confidence": 0.95, "measure": "task-metric"}
    config.write_text(json.dumps({"version": 1, "reduce": {"method": "uniform", "budget": 4}, "calibration": said}))
    assert_one_line(cli(*line, "--config", str(config)), "the config's promise is about 'task-metric'")
    assert_one_line(cli(*line[:-1], "0", "--threshold", "0.5"), "--fallback full")


def test_a_bad_fallback_in_a_config_is_one_line(cli: Cli, small: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"version": 1, "reduce": {"method": "uniform", "budget": 4, "fallback": {"tokens": 0}}}')
    assert_one_line(cli("ask", "scene1", "What?", "--model", small, "--config", str(config)), "fallback", "tokens")
