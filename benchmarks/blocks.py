"""Generated blocks in Markdown: what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` is written by a program."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

__all__ = ["ROOT", "fill", "pages", "update"]

ROOT = Path(__file__).resolve().parents[1]

_BLOCK = re.compile(r"(<!-- (?P<name>[a-z]+:[a-z0-9-]+) -->\n)(?P<body>.*?)(<!-- /(?P=name) -->)", re.DOTALL)


def pages() -> list[Path]:
    """Every page that may hold a generated block."""
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("benchmarks/*.md"))]


def fill(text: str, makers: Mapping[str, Callable[[], str]], kind: str) -> str:
    """``text`` with every block of ``kind`` (``table``, ``generated``) made anew.

    Raises:
        KeyError: a block that nobody makes.
    """

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if not name.startswith(f"{kind}:"):
            return match[0]
        return f"{match[1]}{makers[name.partition(':')[2]]().strip()}\n{match[4]}"

    return _BLOCK.sub(replace, text)


def update(wanted: Iterable[tuple[Path, str]], *, check: bool, remedy: str) -> int:
    """Write each page, or with ``check`` only say which are stale. Returns the exit code."""
    stale = [(page, text) for page, text in wanted if not page.is_file() or page.read_text(encoding="utf-8") != text]
    for page, text in stale:
        name = page.relative_to(ROOT)
        if check:
            print(f"{name} is out of date: run {remedy}")
        else:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return int(check and bool(stale))
