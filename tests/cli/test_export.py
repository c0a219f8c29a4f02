"""``trimkit export``: what it writes and says, and one line for what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.test_errors import assert_one_line


def test_writes_a_checkpoint(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "out"
    outcome = cli("export", "demo", "-o", str(target), "--method", "trim", "--budget", "0.2", "--set", "aggregate=none")
    assert outcome.code == 0
    assert outcome.err == ""
    assert str(target) in outcome.out
    assert "trust_remote_code=True" in outcome.out
    reduce = json.loads((target / "trimkit.json").read_text())["reduce"]
    assert (reduce["method"], reduce["budget"], reduce["aggregate"]) == ("trim", 0.2, "none")
    assert sorted(path.name for path in (target / "custom_generate").iterdir()) == ["generate.py", "requirements.txt"]


def test_json(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("export", "demo", "--output", str(tmp_path / "out"), "--method", "random", "--budget", "9", "--json")
    said = json.loads(outcome.out)
    assert said["path"] == str(tmp_path / "out")
    assert said["reduce"] == json.loads((tmp_path / "out" / "trimkit.json").read_text())["reduce"]
    assert said["reduce"]["budget"] == 9


def test_into_the_checkpoint_itself(cli: Cli, broken_copy: Callable[[str], Path]) -> None:
    folder = broken_copy("whole")
    assert cli("export", str(folder), "--method", "random", "--budget", "9").code == 0
    assert (folder / "custom_generate" / "generate.py").is_file()


ARGUMENTS = {
    "no model": ([], "Missing argument"),
    "unknown model": (["nowhere", "-o", "out"], "no model directory 'nowhere'"),
    "unknown method": (["demo", "-o", "out", "--method", "trimm"], "did you mean 'trim'"),
    "bad budget": (["demo", "-o", "out", "--budget", "0"], "budget"),
    "bad setting": (["demo", "-o", "out", "--set", "aggregate"], "OPTION=VALUE"),
    "the package": (["demo"], "name a directory to write to"),
    "there already": (["demo", "-o", "."], "is there already"),
    "no such scorer": (["demo", "-o", "out", "--scorer", "./clip"], "no scorer directory"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_errors(name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "something").touch()
    monkeypatch.chdir(tmp_path)
    arguments, part = ARGUMENTS[name]
    assert_one_line(cli("export", *arguments), part)
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


@pytest.mark.parametrize(("kind", "part"), [("bad-config", "cannot load model"), ("no-processor", "has no processor")])
def test_broken_checkpoints(kind: str, part: str, cli: Cli, broken_copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = broken_copy(kind)
    assert_one_line(cli("export", str(folder), "-o", str(tmp_path / "out")), part)
    assert not (tmp_path / "out").exists()
