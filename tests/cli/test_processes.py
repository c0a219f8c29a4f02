"""Processes and signals: workers end with their parent, Ctrl-C is one line, and SIGTERM leaves nothing half done."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoint import save_small
from tests.cli.conftest import Cli
from trimkit.cli import _common, _streams

SUITE = ["eval", "suite", "--n", "400", "--batch-size", "4", "--method", "random", "--budget", "32", "--workers", "2"]


def start(*words: str) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-c", "import torch, trimkit.cli; torch.set_num_threads(1); trimkit.cli.main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def group(leader: int) -> set[int]:
    """Living processes of a group; its leader is left out, and so is who waits to be reaped."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            found.add(int(path.parent.name))
    return found - {leader}


def until(true: Callable[[], bool], seconds: float = 240) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("small"))


def without_progress(err: str) -> str:
    """Standard error without the lines that say now and then how far a command is."""
    return "".join(line for line in err.splitlines(keepends=True) if not re.match(r"trimkit: \w+: \d+ of \d+ ", line))


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are looked up in /proc")


@needs_proc
@pytest.mark.parametrize(
    ("number", "at"),
    [
        (signal.SIGKILL, "start"),
        (signal.SIGTERM, "start"),
        (signal.SIGINT, "start"),
        (signal.SIGKILL, "work"),
        pytest.param(signal.SIGTERM, "work", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "work", marks=pytest.mark.slow),
    ],
)
def test_workers_end_with_their_parent(number: signal.Signals, at: str, small: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    running = start(*SUITE, "--model", str(small), "--journal", str(journal))
    try:
        if at == "work":  # rows are there: both workers have loaded the model
            assert until(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 8)
        assert until(lambda: len(group(running.pid)) >= 2)
        if number == signal.SIGINT:  # the terminal sends it to the whole group
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)
        out, err = running.communicate(timeout=240)
        assert until(lambda: not group(running.pid), 20), "workers are left"
    finally:
        for left in {*group(running.pid), *({running.pid} if running.poll() is None else ())}:
            os.kill(left, signal.SIGKILL)
    if number == signal.SIGKILL:
        return
    assert out == ""
    said, code = {signal.SIGTERM: ("terminated", 143), signal.SIGINT: ("interrupted", 130)}[number]
    assert (running.returncode, without_progress(err)) == (code, f"trimkit: {said}\n")


def test_an_interrupt_is_one_line(small: Path, tmp_path: Path) -> None:
    words = ["eval", "scenes", "--n", "4000", "--batch-size", "2", "--method", "random", "--budget", "3"]
    journal = tmp_path / "journal.jsonl"
    running = start(*words, "--model", str(small), "--resume", str(journal))
    assert until(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 2)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=240)
    assert (running.returncode, out, without_progress(err)) == (130, "", "trimkit: interrupted\n")


def test_an_interrupt_of_the_start_is_one_line() -> None:
    """It comes while the commands are imported, before any handler of theirs is there."""
    interrupted = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "trimkit.cli._streams":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from trimkit.__main__ import main
main()
"""
    ran = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "trimkit: interrupted\n")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, _streams.Interrupted, _streams.Terminated])
def test_every_command_ends_in_one_line(kind: type[BaseException], cli: Cli, picture: str, tmp_path: Path) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise kind

    (tmp_path / "pictures").mkdir()
    os.link(picture, tmp_path / "pictures" / "a.png")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_common, "load", interrupt)
        patch.setattr("trimkit.loading.load_model", interrupt)
        patch.setattr("trimkit.loading.find_checkpoint", interrupt)
        for words in (
            ("ask", picture, "What?"),
            ("show", picture, "What?", "-o", str(tmp_path / "x.png")),
            ("export", "demo", "-o", str(tmp_path / "new")),
            ("calibrate", "--images", str(tmp_path / "pictures")),
            ("eval", "scenes", "--n", "1"),
            ("eval", "dialogues", "--n", "1"),
            ("eval", "suite", "--n", "1", "--method", "random"),
            ("bench", "--repeats", "1"),
        ):
            outcome = cli(*words)
            assert outcome.code == (143 if kind is _streams.Terminated else 130), words
            assert outcome.err.strip().count("\n") == 0
            assert outcome.err.endswith(("trimkit: interrupted\n", "trimkit: terminated\n"))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_ended_export_leaves_nothing(number: signal.Signals, small: Path, tmp_path: Path) -> None:
    """It is stopped when everything is copied and nothing has its name yet."""
    code = (
        "import sys, time, trimkit.cli\n"
        "from trimkit.attach import export\n"
        "copy = export.copy_tree\n"
        "def slow(*given):\n"
        "    copy(*given); print('there', flush=True); time.sleep(600)\n"
        "export.copy_tree = slow\n"
        "trimkit.cli.main()\n"
    )
    words = ["export", str(small), "-o", str(tmp_path / "new"), "--method", "random"]
    running = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "there\n"
    assert [path.name.startswith(".trimkit-") for path in tmp_path.iterdir()] == [True]
    running.send_signal(number)
    _, err = running.communicate(timeout=240)
    assert running.returncode == (143 if number == signal.SIGTERM else 130)
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
