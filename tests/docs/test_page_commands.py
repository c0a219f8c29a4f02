"""The commands of the pages that one reads first do what they say, on the demo model and a small checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.docs.test_own_checkpoint import _places
from tests.docs.test_readme import ROOT, blocks
from trimkit.cli import run

PAGES = ("quick-start", "choose-a-budget", "leaderboard", "tutorial-evaluate", "tutorial-calibrate")
LEFT_OUT = ("--risk", "--server", " serve ", "paper-table")  # 149 pictures, a running server, data sets


def commands(page: str) -> list[str]:
    """Every ``trimkit`` line of the page's shell blocks that can run here."""
    lines = [
        line for source, runs in blocks(ROOT / "docs" / f"{page}.md", "sh") if runs for line in source.splitlines()
    ]
    return [line for line in lines if line.startswith("trimkit ") and not any(each in line for each in LEFT_OUT)]


def test_there_is_something_to_run() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 10
    assert all(commands(page) for page in PAGES)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_they_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = _places(tmp_path)
    monkeypatch.chdir(tmp_path)
    for line in commands(page):
        words = [places.get(word, word) for word in shlex.split(line, comments=True)]
        code = run(words[1:])
        assert code == 0, f"{line}: {capsys.readouterr().err}"
