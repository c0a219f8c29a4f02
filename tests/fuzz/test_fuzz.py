"""Drawn command lines, run in this process: exit code 0, 2 or 130, one line where refused, in time, and inputs as they were."""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import io
import itertools
import json
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest
import typer
import uvicorn

import trimkit.loading
from tests.fuzz import web, world
from tests.fuzz.grammar import COMMANDS, command_line
from tests.fuzz.values import PORT
from trimkit.advice.devices import device_of
from trimkit.cli import app, run
from trimkit.io.text import is_text

SMOKE = 60
PROGRESS = r"trimkit: \w+: \d+ of \d+ "  # what a slow command says now and then
ENCODINGS = ("utf-8", "utf-8", "ascii")


class HangError(BaseException):
    """A command took longer than it may."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    world.build(path)
    return path


@pytest.fixture(autouse=True)
def _one_load_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that could be loaded is loaded once; the hub is out of reach."""
    load, held = trimkit.loading.load_model, dict[tuple[str, ...], Any]()

    def load_once(name: str = "demo", device: str = "cpu", dtype: str = "auto") -> Any:
        key = (os.path.realpath(name) if is_text(name) else name, device, dtype)
        if key not in held:
            held[key] = load(name, device, dtype)
        return held[key]

    monkeypatch.setattr(trimkit.loading, "load_model", load_once)
    monkeypatch.setattr(trimkit.loading, "_hub_resolves", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has come up stops at once; nothing is measured for ten seconds, and nobody's shell is asked for."""
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets=None: None)
    monkeypatch.setattr("trimkit.serving.server.process.settle_memory", lambda: None)
    monkeypatch.setattr("trimkit.advice.here.measured", lambda device: device_of("l4"))
    monkeypatch.setenv("SHELL", "/bin/bash")


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise ``HangError`` where the block takes longer; end the process where not even that helps.

    On a machine that others use, a command that works may wait for its turn: it may take so many seconds of its own, and six
    times as many in all, but one that hardly computes is waiting for what does not come.
    """
    started, used = time.monotonic(), time.process_time()

    def late(number: int, frame: FrameType | None) -> None:
        own = time.process_time() - used
        if not 1 < own < seconds or time.monotonic() - started > 6 * seconds:
            raise HangError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    faulthandler.dump_traceback_later(8 * seconds, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_REAL, seconds, 2)  # again and again: one may come where nothing can be raised
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def call(words: list[str], encoding: str, seconds: int) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding=encoding), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), within(seconds):
        code = run(words)
    out.flush()
    return code, out.buffer.getvalue().decode(encoding), err.getvalue()  # type: ignore[attr-defined]


def check(words: list[str], encoding: str, seconds: int) -> int:
    """Run one command and look at what came of it."""
    code, out, err = call(words, encoding, seconds)
    assert code in (0, 2, 130), (code, err)
    assert "Traceback" not in out + err
    if code == 2:
        err = "".join(line for line in err.splitlines(keepends=True) if not re.match(PROGRESS, line))
        assert out == "", out[:200]
        assert err.startswith("trimkit: "), err
        assert err.count("\n") == 1, err
        assert len(err) < 1500, err
    elif code == 0 and "--json" in words and "--help" not in words and "--version" not in words:
        json.loads(out)
    return code


def tidied(folder: Path, there: set[str]) -> list[str]:
    """Take away what a command has left; returns its names, but for those of what a later command goes on with."""
    new = sorted(world.names(folder) - there)
    for name in new:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    return [name for name in new if not name.endswith((".part", "journal.jsonl"))]


def before_of(name: str, words: list[str]) -> list[str]:
    """The options that a name is given to."""
    return [option for option, word in itertools.pairwise(words) if word == name]


def is_only_output(name: str, words: list[str]) -> bool:
    """Whether a file was named as the place of a result, and as nothing else: it is there to be replaced."""
    place = os.path.realpath(name)
    named = ["" if "\0" in word else os.path.realpath(word) for word in words]
    if os.path.dirname(place) in named[1:]:  # a file of the model or of the pictures
        return False
    where = [number for number, path in enumerate(named) if path == place]
    return [words[number - 1] for number in where] in (["--output"], ["--plot"])


def fuzz(folder: Path, commands: int, seed: int, seconds: int) -> int:
    """Run so many drawn commands in ``folder``; returns how many came out well, and fails with all that did not."""
    before, codes, slowest = world.contents(folder), Counter[int](), 0.0
    there, faults = world.names(folder), list[str]()

    def one(words: list[str], encoding: str) -> None:
        nonlocal slowest
        words = [word.replace(PORT, str(port)) for word in words]
        started, code = time.perf_counter(), None
        try:
            code = check(words, encoding, seconds)
            codes[code] += 1
        except (Exception, HangError) as error:  # gone on after: one run is to find all there is
            print(words, encoding, error, file=sys.__stderr__)
            faults.append(f"{[word[:80] for word in words]} ({encoding}): {type(error).__name__}: {str(error)[:400]}")
        slowest = max(slowest, time.perf_counter() - started)
        left = tidied(folder, there)
        left = [name for name in left if not {"--journal", "--resume"} & set(before_of(name, words))]
        if code == 2 and left:
            faults.append(f"{words}: refused, and {left} is there")
        changed = [name for name, content in world.contents(folder).items() if content != before[name]]
        for name in changed:
            (folder / name).write_bytes(before[name])
        lost = [name for name in changed if code != 0 or not is_only_output(name, words)]
        if lost:
            faults.append(f"{words}: {lost} changed")

    with contextlib.chdir(folder), web.serving(folder / "picture.png") as port:
        for number in range(commands):
            chance = Random(f"{seed}-{number}")
            one(command_line(chance), chance.choice(ENCODINGS))
    print(f"seed {seed}: {sum(codes.values())} commands, exit codes {dict(codes)}, slowest {slowest:.1f} s")
    assert not faults, "\n".join([f"{len(faults)} of {commands} commands:", *faults])
    return sum(codes.values())


def options_of(command: Any, name: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every command of the program with its options."""
    for each, below in getattr(command, "commands", {}).items():
        yield from options_of(below, f"{name} {each}".strip())
    if not hasattr(command, "commands"):
        given = (names for each in command.params for names in (each.opts, each.secondary_opts) if names)
        yield name, {max(names, key=len) for names in given}


def test_the_grammar_has_every_command_and_option() -> None:
    known: dict[str, set[str]] = {}
    for name, command in COMMANDS.items():
        known.setdefault(name.removesuffix(" --server"), set()).update(command.options())
    for name, options in options_of(typer.main.get_command(app)):
        missing = {option for option in options if option.startswith("-")} - known.get(name, set()) - {"--help"}
        assert not missing, (name, missing)


def test_a_few_commands(folder: Path) -> None:
    assert fuzz(folder, SMOKE, 1, 20) >= SMOKE


@pytest.mark.fuzz
def test_many_commands(folder: Path, pytestconfig: pytest.Config) -> None:
    commands = pytestconfig.getoption("--fuzz-commands")
    seed = pytestconfig.getoption("--fuzz-seed")
    seed = datetime.datetime.now(datetime.UTC).date().toordinal() if seed is None else seed
    assert fuzz(folder, commands, seed, 20) >= commands
