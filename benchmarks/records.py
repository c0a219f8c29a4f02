"""Result files, and how a table says what is in them and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.blocks import ROOT
from benchmarks.cells import interval, percent

__all__ = ["RESULTS", "Record", "accuracy", "label", "load", "made_of", "right", "save", "source"]

RESULTS = ROOT / "benchmarks" / "results"

Record = dict[str, Any]


def load(name: str) -> Record | None:
    """The record of an experiment, or None where it has not been run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def save(record: Record, path: Path) -> None:
    """Write a record whole: an interruption leaves what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)


def made_of(name: str, make: Callable[[Record], str], module: str = "") -> Callable[[], str]:
    """A table of one experiment's record, with its source; without a record, a line that says how to get one.

    Args:
        name: of the experiment and its result file.
        make: the table, from the record.
        module: of this folder, which measures what is no command's experiment.
    """

    def fresh() -> str:
        record = load(name)
        if record is None:
            command = f"python -m benchmarks.{module or f'run {name}'}"
            return f"*Not measured yet: `{command}` writes `benchmarks/results/{name}.json`.*"
        return f"{make(record)} {source(name, record)}"

    return fresh


def source(name: str, record: Record) -> str:
    """Where the numbers come from and what they were measured on."""
    at = record["provenance"]
    machine, found = at["hardware"], at["versions"]
    where = f"{machine['cpu']}, {machine['threads']} threads" if machine["device"] == "cpu" else machine["device"]
    packages = ", ".join(f"{key} {found[key]}" for key in ("torch", "transformers"))
    return f"Source: `benchmarks/results/{name}.json`, {at['date']}, {where}, {packages}."


def label(arm: Record) -> str:
    """``trim``, or ``trim, budget 0.2``."""
    method, budget = arm["method"], arm.get("budget")
    return f"`{method}`" if method == "none" or budget in (None, "iqr") else f"`{method}`, budget {budget}"


def accuracy(arm: Record, kind: str | None = None) -> float:
    """Accuracy over all questions, or over those of one type."""
    return float(arm["accuracy"] if kind is None else arm["accuracy_by_type"][kind])


def right(arm: Record, kind: str | None = None) -> str:
    """The accuracy with its 95 % interval in brackets."""
    bounds = arm["ci95"] if kind is None else arm["ci95_by_type"][kind]
    return f"{percent(accuracy(arm, kind))} ({interval(bounds)})"
