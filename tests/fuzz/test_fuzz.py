"""Drawn command lines, run in this process: exit code 0, 2 or 130, one line where refused, in time, and inputs as they were."""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import io
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

import trimkit.loading
from tests.fuzz import world
from tests.fuzz.grammar import command_lines
from trimkit.cli import run

SMOKE = 60
ENCODINGS = st.sampled_from(["utf-8", "utf-8", "ascii"])


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
        key = (os.path.realpath(name), device, dtype)
        if key not in held:
            held[key] = load(name, device, dtype)
        return held[key]

    monkeypatch.setattr(trimkit.loading, "load_model", load_once)
    monkeypatch.setattr(trimkit.loading, "_hub_resolves", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


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
        assert out == "", out[:200]
        assert err.startswith("trimkit: "), err
        assert err.count("\n") == 1, err
        assert len(err) < 1500, err
    elif code == 0 and "--json" in words and "--help" not in words and "--version" not in words:
        json.loads(out)
    return code


def fuzz(folder: Path, commands: int, seed: int, seconds: int) -> int:
    """Run so many drawn commands in ``folder``; returns how many came out well, and fails with all that did not."""
    before, codes, slowest = world.contents(folder), Counter[int](), 0.0
    faults: list[str] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=commands,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=False,
    )
    @hypothesis.given(command_lines(), ENCODINGS)
    def one(words: list[str], encoding: str) -> None:
        nonlocal slowest
        started = time.perf_counter()
        try:
            codes[check(words, encoding, seconds)] += 1
        except (Exception, HangError) as error:  # gone on after: one run is to find all there is
            print(words, encoding, error, file=sys.__stderr__)
            faults.append(f"{[word[:80] for word in words]} ({encoding}): {type(error).__name__}: {str(error)[:400]}")
        slowest = max(slowest, time.perf_counter() - started)
        changed = [name for name, content in world.contents(folder).items() if content != before[name]]
        for name in changed:
            (folder / name).write_bytes(before[name])
        if changed:
            faults.append(f"{words}: {changed} changed")

    with contextlib.chdir(folder):
        one()
    print(f"seed {seed}: {sum(codes.values())} commands, exit codes {dict(codes)}, slowest {slowest:.1f} s")
    assert not faults, "\n".join([f"{len(faults)} of {commands} commands:", *faults])
    return sum(codes.values())


def test_a_few_commands(folder: Path) -> None:
    assert fuzz(folder, SMOKE, 1, 20) >= SMOKE


@pytest.mark.fuzz
def test_many_commands(folder: Path, pytestconfig: pytest.Config) -> None:
    commands = pytestconfig.getoption("--fuzz-commands")
    seed = pytestconfig.getoption("--fuzz-seed")
    seed = datetime.datetime.now(datetime.UTC).date().toordinal() if seed is None else seed
    assert fuzz(folder, commands, seed, 20) >= commands
