"""`tools/check_sizes.py`: the tree keeps to the limits, and what does not is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCSTRING = '    """One.\n' + "    more\n" * 60 + '    """\n'


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "tools" / "check_sizes.py"
    return subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True)


def test_the_source_keeps_to_the_limits() -> None:
    done = check(ROOT / "src")
    assert done.returncode == 0, done.stdout
    assert "median" in done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = 1\n" * 300, None),
        ("a = 1\n" * 301, "301 lines, more than 300"),
        ("def f():\n" + "    a = 1\n" * 40, None),
        ("def f():\n" + "    a = 1\n" * 41, "x.py:1: f has 41 lines, more than 40"),
        ("class C:\n    async def g(self):\n" + "        a = 1\n" * 41, "x.py:2: g has 41 lines"),
        ("def f():\n" + DOCSTRING + "    a = 1\n" * 40, None),
        ("def f():\n" + DOCSTRING, None),
    ],
    ids=[
        "file-at-limit",
        "long-file",
        "function-at-limit",
        "long-function",
        "long-method",
        "docstring",
        "only-docstring",
    ],
)
def test_what_is_too_long_is_named(text: str, said: str | None, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(text, encoding="utf-8")
    done = check(tmp_path)
    assert done.returncode == (0 if said is None else 1), done.stdout
    assert said is None or said in done.stdout


def test_a_folder_without_code_is_no_success(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 2
    assert "no Python file" in done.stderr
