"""Names of our modules and functions in pages and docstrings lead somewhere: nothing is left behind when a module moves."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "trimkit"
NAME = re.compile(r"\btrimkit((?:\.[a-z_]\w*)+)")
OURS = {
    "trimkit.json": "the settings file of a checkpoint",
    "trimkit.github.io": "the site",
    "trimkit.methods.norm": "",
    "trimkit.models.deepseek_vl": "",
}
FILES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *(path for path in sorted(ROOT.glob("*/*/*.md")) if path.relative_to(ROOT).parts[0] not in ("out", "node_modules")),
    *(
        path
        for folder in ("src", "benchmarks", "docs", "examples", "recipes")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ),
]


def bound(module: Path) -> set[str]:
    """What a module defines, imports or lists at its top level."""
    names: set[str] = set()
    for statement in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names.add(statement.name)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            names |= {each.asname or each.name for each in statement.names}
        else:
            names |= {each.id for each in ast.walk(statement) if isinstance(each, ast.Name)}
            names |= {str(each.value) for each in ast.walk(statement) if isinstance(each, ast.Constant)}
    return names


def found(name: str) -> bool:
    """Whether a dotted name is a module of the package, or begins with what the last module on its way has."""
    here, rest = SOURCE, name.split(".")[1:]
    while rest and ((here / rest[0]).is_dir() or (here / f"{rest[0]}.py").is_file()):
        here = here / rest[0] if (here / rest[0]).is_dir() else here / f"{rest[0]}.py"
        rest = rest[1:]
    return not rest or rest[0] in bound(here / "__init__.py" if here.is_dir() else here)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_of_ours_exists(path: Path) -> None:
    names = {match[0].rstrip(".") for match in NAME.finditer(path.read_text(encoding="utf-8"))} - set(OURS)
    assert sorted(name for name in names if not found(name)) == []


def test_a_name_that_has_moved_is_seen() -> None:
    assert found("trimkit.core.types.Selection")
    assert found("trimkit.eval.lmms.plugin")
    assert not found("trimkit.types")
    assert not found("trimkit.core.types.Shrunk")
