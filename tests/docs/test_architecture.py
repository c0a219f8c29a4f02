"""docs/architecture.md keeps up: the files that it names exist, every package is in its diagram, and arrows point down."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "trimkit"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
DIAGRAM = PAGE[PAGE.index("```mermaid") : PAGE.index("```", PAGE.index("```mermaid") + 3)]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
LAYERS = [layer.split(" | ") for layer in CONTRACTS[0]["layers"]]


def test_every_path_exists() -> None:
    paths = re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", PAGE)
    assert len(paths) > 20
    assert [path for path in paths if not any((root / path).exists() for root in (SOURCE, ROOT))] == []


def test_every_package_is_in_the_diagram() -> None:
    names = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    missing = [name for name in names - {"__init__", "__main__"} if not re.search(rf"\b{name}\b", DIAGRAM)]
    assert missing == []


def test_the_diagram_names_nothing_else() -> None:
    nodes = set(re.findall(r"\b(\w+)\[\"", DIAGRAM)) - {"tools", "inputs", "shelves"}  # groups
    assert nodes <= {name for layer in LAYERS for name in layer}


def test_arrows_point_down() -> None:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    level |= {
        group: level[member] for group, member in (("tools", "eval"), ("inputs", "loading"), ("shelves", "methods"))
    }
    arrows = re.findall(r"(\w+)(?:\[\"[^\]]*\])? --> (\w+)", DIAGRAM)
    assert len(arrows) > 15
    assert [arrow for arrow in arrows if level[arrow[0]] >= level[arrow[1]]] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_it_is_linked(page: str) -> None:
    assert "(docs/architecture.md)" in (ROOT / page).read_text(encoding="utf-8")


def test_ten_lines() -> None:
    way = PAGE[PAGE.index("## The way of a request") : PAGE.index("## Where to add what")]
    assert [int(number) for number in re.findall(r"^(\d+)\. ", way, re.M)] == list(range(1, 11))
