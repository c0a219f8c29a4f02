"""The package as such: its namespace, its version, its licence files, and that importing it does nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import trimkit

ROOT = Path(__file__).resolve().parents[2]


def test_all_is_the_namespace() -> None:
    public = {
        name
        for name, value in vars(trimkit).items()
        if not name.startswith("_") and name != "annotations" and not isinstance(value, types.ModuleType)
    }
    assert public == set(trimkit.__all__)
    assert list(trimkit.__all__) == sorted(trimkit.__all__)


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
