"""``trimkit calibrate --risk``: the promise, its config, and what is too little for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint import save_small
from tests.cli.conftest import Cli
from tests.cli.test_errors import assert_one_line
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


def test_a_command_that_cannot_fall_back_says_so(cli: Cli, small: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"version": 1, "reduce": {"method": "uniform", "budget": 4, "fallback": {"threshold": 0.5}}}')
    outcome = cli("eval", "scenes", "--n", "1", "--model", small, "--config", str(config))
    assert outcome.code == 0
    assert "reduces without the config's fallback" in outcome.err


def test_a_bad_fallback_in_a_config_is_one_line(cli: Cli, small: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"version": 1, "reduce": {"method": "uniform", "budget": 4, "fallback": {"tokens": 0}}}')
    assert_one_line(cli("ask", "scene1", "What?", "--model", small, "--config", str(config)), "fallback", "tokens")
