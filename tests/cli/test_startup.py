"""Help, completion and what a command costs before it does anything: no torch is loaded to print a page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.conftest import Cli


def _commands() -> Iterator[tuple[str, ...]]:
    from typer.main import get_command

    from trimkit.cli import app

    def below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, child in sorted(getattr(command, "commands", {}).items()):
            yield from below(child, (*words, name))

    yield from below(get_command(app), ())


COMMANDS = list(_commands())

_LOADED = """
import sys
from trimkit.cli import run
code = run(sys.argv[1:])
heavy = [name for name in ("torch", "transformers", "PIL", "numpy") if name in sys.modules]
sys.exit(code or (f"loaded {heavy}" if heavy else 0))
"""


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_every_command(words: tuple[str, ...], flag: str, cli: Cli) -> None:
    outcome = cli(*words, flag)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(" ".join(["Usage: trimkit", *words]))


def test_help_loads_no_torch() -> None:
    """One process for all pages: whichever page loads something heavy, it is loaded at the end."""
    code = _LOADED.replace(
        "code = run(sys.argv[1:])", "code = max(run([*w.split(), f]) for w in sys.argv[1:] for f in ('-h', '--help'))"
    )
    pages = [" ".join(words) for words in COMMANDS]
    done = subprocess.run([sys.executable, "-c", code, *pages], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [("--version",), ("eval",), ("no-such-command",)])
def test_other_short_answers_load_no_torch(words: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-c", _LOADED, *words], capture_output=True, text=True)
    assert "loaded" not in done.stderr


def test_help_takes_less_than_half_a_second_of_cpu() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "trimkit", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("words", [(), ("eval",), ("--debug",), ("--debug", "eval")])
def test_a_group_without_a_command_prints_its_help(words: tuple[str, ...], cli: Cli) -> None:
    outcome = cli(*words)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("Usage: trimkit")


OFFERED = [
    "advise",
    "ask",
    "batch",
    "bench",
    "calibrate",
    "demo",
    "encode-server",
    "eval",
    "export",
    "fit",
    "language-model",
    "leaderboard",
    "methods",
]
OFFERED += ["models", "serve", "show"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("trimkit ", OFFERED),
        ("trimkit eval ", ["dialogues", "paper-table", "scenes", "suite"]),
        ("trimkit ask --sc", ["--scorer"]),
    ],
)
def test_completion(line: str, offered: list[str]) -> None:
    words = line.split(" ")
    asked = {"_TRIMKIT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run([sys.executable, "-c", _LOADED], env={**os.environ, **asked}, capture_output=True, text=True)
    assert sorted(done.stdout.split()) == offered
    assert (done.returncode, done.stderr) == (0, "")
