"""`lint-imports` passes on the tree, and each contract of pyproject.toml fails on an import that it is there to stop."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="not beside the oldest dependencies, see tests/ranges.py")

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = {
    each["id"]: each["name"]
    for each in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
}
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"

# contract, file of src/trimkit, what is added to it
PLANTED = [
    ("layers", "core/budget.py", "import trimkit.pipeline.choosing"),
    ("layers", "bench/stats.py", "def late() -> None:\n    from trimkit.eval import statistics"),
    ("layers", "another_package/__init__.py", ""),  # it has no place yet
    ("shelves", "methods/trim.py", "import trimkit.scorers"),
    ("shelves", "models/llava.py", "from trimkit.methods import Method"),
    ("pipeline", "pipeline/choosing.py", "def late() -> None:\n    from trimkit.attach import conversation"),
    ("root", "cli/ask.py", "import trimkit"),
    ("private", "pipeline/encoding.py", "from trimkit.models import _signals"),
    ("private", "cli/bench.py", "from trimkit.bench._canvas import Canvas"),
    ("circles", "core/geometry.py", "if TYPE_CHECKING:\n    from trimkit.core.types import ImageTokens"),
]


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(tree / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", LINT_IMPORTS, "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


def broken(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Ids of the contracts that the output calls broken."""
    said = " ".join(done.stdout.split())
    return {key for key, name in CONTRACTS.items() if f"{name} BROKEN" in said}


def copied(tree: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tree)
    only_code = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.json", "*.png")
    shutil.copytree(ROOT / "src" / "trimkit", tree / "src" / "trimkit", ignore=only_code)
    return tree


def test_the_tree_keeps_every_contract() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CONTRACTS)} kept, 0 broken" in done.stdout


@pytest.mark.parametrize(("contract", "file", "text"), PLANTED, ids=[f"{case[0]}-{case[1]}" for case in PLANTED])
def test_a_planted_import_breaks_its_contract(contract: str, file: str, text: str, tmp_path: Path) -> None:
    path = copied(tmp_path) / "src" / "trimkit" / file
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as source:
        source.write(f"\n{text}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert contract in broken(done), done.stdout
    assert "0 broken" not in done.stdout


def test_every_contract_is_tried() -> None:
    assert {contract for contract, _, _ in PLANTED} == set(CONTRACTS)


def calls_generate(text: str) -> bool:
    """Whether code, not a docstring, names ``generate`` of anything."""
    return any(
        (isinstance(node, ast.Attribute) and node.attr == "generate")
        or (isinstance(node, ast.Constant) and node.value == "generate")
        for node in ast.walk(ast.parse(text))
    )


def test_the_pipeline_never_generates() -> None:
    files = sorted((ROOT / "src" / "trimkit" / "pipeline").rglob("*.py"))
    assert files
    assert [path.name for path in files if calls_generate(path.read_text(encoding="utf-8"))] == []
    for text in ("model.generate(**inputs)", "call = self.model.generate", "getattr(model, 'generate')()"):
        assert calls_generate(text)


def private_names(text: str) -> list[str]:
    """Private functions, classes and constants that code imports from a module of ours; private modules are import-linter's."""
    return [
        f"{node.module}.{each.name}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trimkit")
        for each in node.names
        if each.name.startswith("_") and not each.name.startswith("__") and not _is_module(f"{node.module}.{each.name}")
    ]


def _is_module(name: str) -> bool:
    path = ROOT / "src" / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_private_names_stay_in_their_module() -> None:
    found = {path: private_names(path.read_text(encoding="utf-8")) for path in (ROOT / "src").rglob("*.py")}
    assert {path: names for path, names in found.items() if names} == {}
    assert private_names("from trimkit.config import _one_line") == ["trimkit.config._one_line"]
    assert private_names("from trimkit.cli import _common, ask") == []
