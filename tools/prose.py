"""Check the prose of README and docs: ``python tools/prose.py`` (``make prose``). The style is tools/prose.toml.

House rules need the standard library alone; where proselint is installed, the checks of it that the style names run, too. Each
finding is one line: file, line, what to do. Ends with 1 where there is one.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STYLE: dict[str, Any] = tomllib.loads((ROOT / "tools" / "prose.toml").read_text(encoding="utf-8"))
PAGES = ["README.md", "SECURITY.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]

_BLANKED = (  # replaced by spaces, so that lines and columns stay
    re.compile(r"<!-- (table|generated):(\S+) -->.*?<!-- /\1:\2 -->", re.S),
    re.compile(r"^([ ]*)(```+).*?^\1\2[ ]*$", re.M | re.S),
    re.compile(r"<!--.*?-->", re.S),
    re.compile(r"^\|[\s:|-]+\|$", re.M),
    re.compile(r"^::: .*$", re.M),
    re.compile(r"(?<=\])\([^)\s]+\)"),
    re.compile(r"https?://\S+"),
    re.compile(r"</?[a-z][^>]*>"),
)
_CODE = re.compile(r"`+[^`]+`+")
_SENTENCE_END = re.compile(r"(?<=[.!?:;])[\s\"')\]*]+|\n\s*\n|\n\s*(?=[-*#>]|\d+\. )|\|")
_PASSIVE = re.compile(
    r"\b(is|are|was|were|been|being|be)\s+(\w+ly\s+)?(\w{3,}ed|given|taken|made|held|kept|known|seen|shown|found|run|set|read|left|written|chosen|drawn|built|told|done|cut|put|sent|lost)\b",
    re.I,
)


def prose_of(text: str) -> str:
    """The text with everything blanked that is no prose; a piece of code becomes one word."""
    for pattern in _BLANKED:
        text = pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return _CODE.sub(_filler, text)


def _filler(found: re.Match[str]) -> str:
    """One word as long as the piece of code, and unlike its neighbors'."""
    return f"x{found.start()}".ljust(len(found[0]), "x")[: len(found[0])]


def house(text: str, *, history: bool = False) -> Iterator[tuple[int, str]]:
    """``(offset, what to do)`` for every break of the house's rules in a page's prose."""
    for pattern, better in STYLE["spelling"].items():
        for found in re.finditer(pattern, text, re.I):
            yield found.start(), f"US spelling: {found[0]!r} is {better!r}"
    if history:
        return
    for pattern, advice in STYLE["avoid"].items():
        for found in re.finditer(pattern, text, re.I):
            yield found.start(), f"{found[0]!r}: {advice}"
    passive, count = 0, 0
    for start, sentence in sentences(text):
        words = len(re.findall(r"\w[\w'-]*", sentence))
        if words > STYLE["sentence_words"]:
            yield start, f"a sentence of {words} words: split it (at most {STYLE['sentence_words']})"
        if words > 3:
            count += 1
            passive += bool(_PASSIVE.search(sentence))
    if count >= 20 and passive / count > STYLE["passive_share"]:
        yield 0, f"{passive} of {count} sentences are passive: say who does it (at most {STYLE['passive_share']:.0%})"


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Sentences, and what stands like one: items of lists, cells, headings."""
    last = 0
    for found in _SENTENCE_END.finditer(text):
        yield last, text[last : found.start()]
        last = found.end()
    yield last, text[last:]


def linted(text: str) -> Iterator[tuple[int, str]]:
    """What proselint finds, of the checks that the style names."""
    from proselint.checks import __register__
    from proselint.registry import CheckRegistry
    from proselint.tools import LintFile

    registry = CheckRegistry()
    if not registry.checks:
        registry.register_many(__register__)
    wanted = tuple(STYLE["proselint"])
    for result in LintFile(source="page", content=text).lint(
        {"checks": dict.fromkeys(wanted, True), "max_errors": 1000}
    ):
        yield result.check_result.span[0], f"proselint {result.check_result.check_path}: {result.check_result.message}"


def main() -> int:
    """Check all pages, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", help="default: README.md, SECURITY.md and docs/*.md")
    given = parser.parse_args()
    total = 0
    for name in given.pages or PAGES:
        text = prose_of((ROOT / name).read_text(encoding="utf-8"))
        findings = list(house(text, history=name in STYLE["history"]))
        if find_spec("proselint") and name not in STYLE["history"]:
            findings += linted(text)
        for offset, advice in sorted(findings):
            print(f"{name}:{text.count(chr(10), 0, offset) + 1}: {advice}")
        total += len(findings)
    print(f"{len(given.pages or PAGES)} pages, {total} findings")
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
