"""The package as such: its namespace, its version, its licence files, and that importing it does nothing else."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import trimkit

ROOT = Path(__file__).resolve().parents[2]


def test_all_is_the_namespace() -> None:
    machinery = {"TYPE_CHECKING", "Any", "ModuleType", "annotations"}
    public = {
        name
        for name in dir(trimkit)
        if not name.startswith("_")
        and name not in machinery
        and not isinstance(getattr(trimkit, name), types.ModuleType)
    }
    assert public == set(trimkit.__all__)
    assert list(trimkit.__all__) == sorted(trimkit.__all__)


def test_names_are_imported_on_first_use_from_where_type_checkers_see_them() -> None:
    tree = ast.parse(Path(trimkit.__file__).read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in checked.body for alias in node.names}  # type: ignore[attr-defined]
    assert seen == trimkit._HOME_OF
    assert set(seen) == set(trimkit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = trimkit.nothing


def test_attach_is_the_function_whatever_is_imported_first() -> None:
    code = """
import trimkit.attach.api
import trimkit
from trimkit.attach.api import attach
from trimkit import attach as public
assert trimkit.attach is attach is public, trimkit.attach
assert trimkit.reduce is trimkit.attach.__globals__["reduce"]
from trimkit import *
assert export.__name__ == "export"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_importing_loads_no_torch() -> None:
    code = "import sys, trimkit; sys.exit([name for name in ('torch', 'transformers') if name in sys.modules] or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_documented() -> None:
    bare = [name for name in trimkit.__all__ if not (getattr(trimkit, name).__doc__ or "").strip()]
    assert bare == []


def test_changelog_leads_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(\d[^\]]*)\]", text, re.MULTILINE)[0] == trimkit.__version__


def test_citation_has_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {trimkit.__version__}\n" in text
    assert "arXiv:2409.10994" in text


def test_import_has_no_side_effects() -> None:
    """No environment variable, no log handler, and no heavy library beyond torch: a CLI's --help waits for all of it."""
    code = """
import json, logging, os, sys, warnings
import torch
filters, handlers, threads = list(warnings.filters), list(logging.getLogger().handlers), torch.get_num_threads()
before = dict(os.environ)
import trimkit
print(json.dumps({
    "environment": sorted(set(os.environ.items()) ^ set(before.items())),
    "filters": list(warnings.filters) == filters,
    "handlers": logging.getLogger().handlers == handlers,
    "threads": torch.get_num_threads() == threads,
    "heavy": [name for name in ("torchvision", "transformers", "typer", "rich", "PIL") if name in sys.modules],
}))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == {
        "environment": [],
        "filters": True,
        "handlers": True,
        "threads": True,
        "heavy": [],
    }


def test_the_package_is_typed() -> None:
    assert (Path(trimkit.__file__).parent / "py.typed").is_file()
