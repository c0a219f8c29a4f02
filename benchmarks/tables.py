"""Write result tables into README and docs: ``python -m benchmarks.tables`` (``--check`` only says what is out of date).

Every number comes from ``results/NAME.json``. Tables, plots and other files are what the modules of this folder have in
``TABLES`` (name of the block: what makes its text), ``PLOTS`` and ``FILES``: a new benchmark is one file, with its table in it.
A table that no page shows yet gets a section at the end of ``benchmarks/README.md``, from where it may be moved.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import benchmarks
from benchmarks.blocks import ROOT, fill, pages, update
from benchmarks.records import load

__all__ = ["found_tables", "plots", "with_new_sections", "written_files"]

HOME = ROOT / "benchmarks" / "README.md"


def found_tables() -> dict[str, Callable[[], str]]:
    """Every table by its name.

    Raises:
        RuntimeError: two modules have one of the same name.
    """
    found: dict[str, Callable[[], str]] = {}
    for module in _modules():
        for name, make in getattr(module, "TABLES", {}).items():
            if name in found:
                raise RuntimeError(f"table {name!r} of {module.__name__} is there already: give it another name")
            found[name] = make
    return found


def plots() -> list[tuple[Path, str]]:
    """Every plot whose experiment has been run, as a file and what is to be in it."""
    found = []
    for module in _modules():
        for name, (path, draw) in getattr(module, "PLOTS", {}).items():
            record = load(name)
            if record is not None:
                found.append((path, draw(record["results"][0])))
    return found


def written_files() -> list[tuple[Path, str]]:
    """Every other file that is made from results (``FILES`` of a module: path, and what makes its text)."""
    return [(path, make()) for module in _modules() for path, make in getattr(module, "FILES", [])]


def with_new_sections(texts: dict[Path, str]) -> dict[Path, str]:
    """The pages, and at the end of ``benchmarks/README.md`` a section for every table that none of them shows.

    Its text is the first paragraph of the module that makes the table.
    """
    sections = [
        f"\n## `{name}`\n\n{(inspect.getdoc(module) or name).split(chr(10) * 2)[0]}\n\n"
        f"<!-- table:{name} -->\n<!-- /table:{name} -->\n"
        for module in _modules()
        for name in getattr(module, "TABLES", {})
        if not any(f"<!-- table:{name} -->" in text for text in texts.values())
    ]
    return {**texts, HOME: texts[HOME].rstrip("\n") + "\n" + "".join(sections)}


def _modules() -> list[ModuleType]:
    names = sorted(each.name for each in pkgutil.iter_modules(benchmarks.__path__))
    return [importlib.import_module(f"benchmarks.{name}") for name in names if name != "tables"]


def main() -> int:
    """Fill the ``table:`` blocks of every page, and draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a page is out of date")
    check = parser.parse_args().check
    tables = found_tables()
    texts = with_new_sections({page: page.read_text(encoding="utf-8") for page in pages() if page.is_file()})
    filled = [(page, fill(text, tables, "table")) for page, text in texts.items()]
    return update([*filled, *plots(), *written_files()], check=check, remedy="python -m benchmarks.tables")


if __name__ == "__main__":
    sys.exit(main())
