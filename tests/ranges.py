"""The ends of the dependencies' ranges in pyproject.toml, as requirements for pip: ``python -m tests.ranges newest|oldest``.

Torch is left to whoever calls this, in the Makefile ``TORCH``. Runs before anything is installed: standard library alone.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


# Tools that cannot stand beside the oldest dependencies: import-linter asks for rich 14. Tests that need it are skipped there.
NOT_BESIDE_OLDEST = {"import-linter"}


def dependencies() -> list[str]:
    found: list[str] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    return found


def name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def lowest(requirement: str) -> str:
    """``name==version`` of a range's lower end."""
    found = re.search(r">=([\w.]+)", requirement)
    if found is None:
        raise SystemExit(f"{requirement} has no lower end")
    return f"{name_of(requirement)}=={found[1]}"


def requirements(end: str) -> Iterator[str]:
    tools: list[str] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["dependency-groups"]["dev"]
    for each in dependencies():
        if name_of(each) != "torch":
            yield name_of(each) if end == "newest" else lowest(each)
    if end == "newest":
        yield from map(name_of, tools)
    else:
        yield from (tool for tool in tools if name_of(tool) not in NOT_BESIDE_OLDEST)


if __name__ == "__main__":
    print(*requirements(sys.argv[1]), sep="\n")
