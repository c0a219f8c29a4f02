"""What programs write into README and docs is what they would write now."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

LAYOUT = Version("0.29")  # of typer, from which help looks as in docs/cli.md
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", ["docs.generate", "benchmarks.tables"])
def test_pages_are_current(module: str) -> None:
    if module == "docs.generate" and Version(version("typer")) < LAYOUT:
        pytest.skip(f"typer {version('typer')} lays out --help in another way than the pages have it")
    done = subprocess.run([sys.executable, "-m", module, "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_width_and_colour_do_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "61")
    monkeypatch.setenv("TERMINAL_WIDTH", "61")
    monkeypatch.setenv("FORCE_COLOR", "1")
    test_pages_are_current("docs.generate")
