"""Bad input through the command: exit code 2, one line of cause and remedy on stderr, nothing on stdout, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Cli, Outcome
from trimkit.cli import _common
from trimkit.demo import demo_model_path


def assert_one_line(outcome: Outcome, *parts: str, code: int = 2) -> None:
    assert outcome.code == code, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("trimkit: ")
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err


PICTURES = {
    "missing.png": (None, "does not exist"),
    "empty.png": (b"", "is empty"),
    "notes.txt": (b"no picture at all", "not an image"),
    "cut.jpg": (b"cut", "damaged or cut short"),
    "bomb.png": (b"bomb", "downscale it first"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name: str, cli: Cli, tmp_path: Path) -> None:
    content, cause = PICTURES[name]
    path = tmp_path / name
    if content == b"cut":
        Image.effect_noise((300, 300), 60).convert("RGB").save(path)
        path.write_bytes(path.read_bytes()[:-9000])
    elif content == b"bomb":
        Image.new("1", (20_000, 20_000)).save(path)
    elif content is not None:
        path.write_bytes(content)
    assert_one_line(cli("ask", str(path), "What is this?"), cause, ": ")


@pytest.mark.parametrize("budget", ["-1", "0", "2.0", "NaN", "inf", "", "0.0", "1.5", "many", "1e9", "top-p:2"])
@pytest.mark.parametrize("command", ["ask", "show"])
def test_budgets(budget: str, command: str, cli: Cli, picture: str) -> None:
    assert_one_line(cli(command, picture, "What is this?", "--budget", budget), "budget", "iqr")


def test_budgets_of_an_evaluation(cli: Cli) -> None:
    assert_one_line(cli("eval", "scenes", "--n", "1", "--budget", "-1"), "budget")


ARGUMENTS = {
    "unknown method": (["--method", "trimm"], ["did you mean 'trim'"]),
    "unknown option": (["--set", "no_such=1"], ["no option 'no_such'"]),
    "not an option": (["--set", "aggregate"], ["OPTION=VALUE"]),
    "option value": (["--set", "aggregate=most"], ["aggregate"]),
    "temperature": (["--set", "temperature=0"], ["temperature"]),
    "a method as an option": (["--set", "method=random"], ["'method' is no option"]),
    "infinite": (["--method", "focus", "--set", "redundancy=Infinity"], ["finite number"]),
    "unknown home": (["--config", "~nobody-has-this-name/c.json"], ["no such home directory"]),
    "device": (["--device", "toaster"], ["toaster", "cpu"]),
    "dtype": (["--dtype", "float13"], ["float13", "float32"]),
    "no tokens": (["--max-new-tokens", "0"], ["--max-new-tokens"]),
    "not a number": (["--max-new-tokens", "x"], ["--max-new-tokens"]),
    "no such flag": (["--no-such-flag"], ["--no-such-flag", "--help"]),
    "value missing": (["--budget"], ["--budget"]),
    "empty model": (["--model", ""], ["model name is empty"]),
    "model path": (["--model", "/no/such/model"], ["no model directory '/no/such/model'"]),
    "relative model path": (["--model", "./nothing"], ["no model directory"]),
    "bare model name": (["--model", "nothing"], ["no model directory"]),
    "model without images": (["--model", str(demo_model_path() / "clip")], ["not a vision-language model"]),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(case: str, cli: Cli, picture: str) -> None:
    arguments, parts = ARGUMENTS[case]
    assert_one_line(cli("ask", picture, "What is this?", *arguments), *parts)


@pytest.mark.parametrize("question", ["", "   ", "\n\t"])
def test_empty_questions(question: str, cli: Cli, picture: str) -> None:
    assert_one_line(cli("ask", picture, question), "question is empty")


def test_questions_that_cannot_be_asked(cli: Cli, picture: str) -> None:
    assert_one_line(cli("ask", picture), "no question")
    assert_one_line(cli("ask", picture, "word " * 10_000), "words")
    assert_one_line(cli("ask", picture, "What is in <image>?"), "placeholder")
    assert_one_line(cli("ask", "sample:nothing"), "no sample 'nothing'")


def test_model_files(cli: Cli, picture: str, tmp_path: Path) -> None:
    assert_one_line(cli("ask", picture, "What?", "--model", picture), "is a file")
    assert_one_line(cli("ask", picture, "What?", "--model", str(tmp_path)), "no config.json")


@pytest.mark.parametrize(
    "kind", ["cut-weights", "no-weights", "lacks-tensors", "bad-config", "unknown-type", "no-processor"]
)
def test_broken_checkpoints(kind: str, cli: Cli, picture: str, broken_copy: Callable[[str], Path]) -> None:
    folder = broken_copy(kind)
    assert_one_line(cli("ask", picture, "What?", "--model", str(folder)), str(folder)[:40])


def test_a_checkpoint_without_a_text_tower(cli: Cli, picture: str, no_text_tower: Path) -> None:
    ask = ("ask", picture, "What?", "--model", str(no_text_tower), "--max-new-tokens", "1")
    assert_one_line(cli(*ask), "scorer")
    assert cli(*ask, "--method", "random", "--budget", "0.2").code == 0, "what does not read the text works"


def test_hub_ids_fail_fast_without_a_network(cli: Cli, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimkit.loading._hub_resolves", lambda: False)
    assert_one_line(cli("ask", picture, "What?", "--model", "no-such-owner/no-such-model"), "hub cannot be reached")


@pytest.mark.parametrize("output", ["out.bmp", "out", "no/such/folder/out.png", "."])
def test_outputs_are_checked_before_the_model_is_loaded(
    output: str, cli: Cli, picture: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_common, "load", lambda *_: pytest.fail("loaded"))
    assert_one_line(cli("show", picture, "What?", "-o", output), "cannot write")


MEASUREMENTS = {
    "no questions": ["eval", "scenes", "--n", "0"],
    "negative seed": ["eval", "scenes", "--seed", "-1"],
    "no batch": ["eval", "scenes", "--batch-size", "0"],
    "unknown positions": ["eval", "scenes", "--positions", "odd"],
    "no dialogues": ["eval", "dialogues", "--n", "0"],
    "one bad policy of two": ["eval", "dialogues", "--turns", "first,last"],
    "one bad method of two": ["eval", "scenes", "--method", "trim,nothing"],
    "one of two cannot prune the tower": ["eval", "scenes", "--method", "trim,random", "--tower-keep", "0.5"],
    "no place for the result": ["eval", "scenes", "-o", "/no/such/folder/x.json"],
    "no such shape": ["bench", "--random", "round"],
    "unknown command": ["aks"],
    "unknown subcommand": ["eval", "nothing"],
}


@pytest.mark.parametrize("case", MEASUREMENTS)
def test_measurements(case: str, cli: Cli) -> None:
    assert_one_line(cli(*MEASUREMENTS[case]))


def test_defects_are_one_line_too(cli: Cli, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(_common, "load", fail)
    assert_one_line(cli("ask", picture, "What?"), "RuntimeError", "first line second line", "--debug", code=1)
    assert "Traceback" in cli("--debug", "ask", picture, "What?").err


def test_an_interrupt_ends_quietly(cli: Cli, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_common, "load", interrupt)
    outcome = cli("ask", picture, "What?")
    assert (outcome.code, outcome.out) == (130, "")
