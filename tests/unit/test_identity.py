"""A journal does not hand out answers of another version of what chooses."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import trimkit
from trimkit.eval import identity
from trimkit.eval.identity import method_identity
from trimkit.methods import get_method, method_classes

CORE = Path(trimkit.__file__).parent / "core"
# Data types, transfers between host and device, and what reads a layer: they choose nothing.
NO_RULE = {"types", "_kernels", "transfer", "tower_plan", "layer_read", "content"}


def imported_from_core(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    dotted = {str(node.module) for node in nodes} | {
        f"{node.module}.{each.name}" for node in nodes for each in node.names if node.module == "trimkit.core"
    }
    return {name.removeprefix("trimkit.core.") for name in dotted if name.startswith("trimkit.core.")}


def test_every_rule_that_a_method_imports_is_part_of_its_name() -> None:
    known = {path.stem for path in identity._SHARED}
    for name, cls in method_classes():
        path = Path(str(importlib.import_module(cls.__module__).__file__))
        assert imported_from_core(path) - NO_RULE <= known, name
    greedy = imported_from_core(CORE / "greedy.py") - NO_RULE
    assert {"_greedy_host"} <= greedy <= known


@pytest.mark.parametrize("module", ["text_lines", "_greedy_host", "functional"])
def test_another_version_of_a_rule_is_another_method(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = method_identity(get_method("focus"))
    other = tmp_path / f"{module}.py"
    other.write_text((CORE / other.name).read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    shared = tuple(other if path.stem == module else path for path in identity._SHARED)
    assert shared != identity._SHARED
    monkeypatch.setattr(identity, "_SHARED", shared)
    assert method_identity(get_method("focus")) != before
