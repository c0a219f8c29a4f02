"""Write result tables into README and docs: ``python -m benchmarks.tables`` (``--check`` only says what is out of date).

Every number comes from ``results/NAME.json``. An experiment without a result file gets a line that says so.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import bench_tables, suite_plot, suite_tables
from benchmarks.blocks import ROOT, fill, pages, update
from benchmarks.cells import interval, percent, table

RESULTS = ROOT / "benchmarks" / "results"
TYPES = ("existence", "attribute", "counting", "relation", "multiple_choice", "reading")
NAMED = ("existence", "attribute", "counting")
"""Question types whose question names what it needs to see."""

TRAINED = ("full_asked_full", "trim_asked_trim")

Record = dict[str, Any]


def load(name: str) -> Record | None:
    """The record of an experiment, or None where it has not been run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def pending(name: str, module: str = "") -> str:
    """What stands in place of a table; ``module`` measures what is not a command's experiment."""
    command = f"python -m benchmarks.{module or f'run {name}'}"
    return f"*Not measured yet: `{command}` writes `benchmarks/results/{name}.json`.*"


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


def mean_over(arm: Record, kinds: tuple[str, ...]) -> float:
    """Unweighted mean of the accuracies of several types (an experiment asks as many of each)."""
    return sum(accuracy(arm, kind) for kind in kinds) / len(kinds)


def heading_table() -> str:
    """README's first screen: full, trim and random, in one table."""
    record = load("demo_scenes")
    if record is None:
        return pending("demo_scenes")
    arms = [arm for arm in record["results"] if "--budget" not in arm["command"]]
    picked = [next(arm for arm in arms if arm["method"] == name) for name in ("none", "trim", "random")]
    rows = [
        [
            {"none": "all tokens", "trim": "`trim`", "random": "`random`, same count"}[arm["method"]],
            f"{arm['image_tokens_kept_mean']:.0f}",
            percent(mean_over(arm, NAMED)),
            *[percent(accuracy(arm, kind)) for kind in ("relation", "multiple_choice", "reading")],
            right(arm),
        ]
        for arm in picked
    ]
    header = ["", "image tokens", "existence, attribute, counting", "relation", "multiple choice", "reading"]
    note = f"{picked[0]['n']} questions on held-out scenes, seed {picked[0]['seed']}."
    return f"{table([*header, 'all types (95 %)'], rows)}\n\n{note} {source('demo_scenes', record)}"


def demo_table() -> str:
    """Every arm and every question type, with intervals where the command gives them."""
    record = load("demo_scenes")
    if record is None:
        return pending("demo_scenes")
    rows = []
    for arm in record["results"]:
        cells = [label(arm), f"{arm['image_tokens_kept_mean']:.1f} of {arm['image_tokens_full']:.0f}"]
        cells.append(right(arm))
        for kind in TYPES:
            cells.append(right(arm, kind))
        rows.append(cells)
    header = ["method", "image tokens", "all types", *[kind.replace("_", " ") for kind in TYPES]]
    first = record["results"][0]
    note = f"{first['n']} questions, seed {first['seed']}; 95 % intervals in brackets."
    return f"{table(header, rows)}\n\n{note} {source('demo_scenes', record)}"


def default_table() -> str:
    """What each choice in ``trim`` is worth on the demo model."""
    record = load("trim_default")
    if record is None:
        return pending("trim_default")
    rows = []
    for arm, asked in zip(record["results"], record["config"]["arms"], strict=True):
        named = f"{percent(mean_over(arm, NAMED))}"
        total = right(arm)
        rows.append([f"`{' '.join(asked['set'])}`", f"{arm['image_tokens_kept_mean']:.0f}", named, total])
    first = record["results"][0]
    header = ["options of `trim`", "image tokens", "existence, attribute, counting", "all types (95 %)"]
    return f"{table(header, rows)}\n\n{first['n']} questions, seed {first['seed']}. {source('trim_default', record)}"


def positions_table() -> str:
    """Contiguous and original numbering of kept tokens, by type."""
    record = load("positions")
    if record is None:
        return pending("positions")
    rows = []
    for arm in record["results"]:
        name = label(arm) if arm["method"] == "none" else f"{label(arm)}, {arm['positions']}"
        cells = [name, f"{arm['image_tokens_kept_mean']:.0f}", right(arm)]
        for kind in ("relation", "counting", "reading"):
            cells.append(right(arm, kind))
        rows.append(cells)
    first = record["results"][0]
    header = ["method, positions", "image tokens", "all types (95 %)", "relation", "counting", "reading"]
    return f"{table(header, rows)}\n\n{first['n']} questions, seed {first['seed']}. {source('positions', record)}"


def tower_table() -> str:
    """Accuracy with patches dropped inside the vision tower."""
    record = load("tower_pruning")
    if record is None:
        return pending("tower_pruning")
    rows = []
    for arm in record["results"]:
        name = "all" if arm["tower_keep"] is None else f"{100 * arm['tower_keep']:.0f} %"
        name += f", from layer {layer + 1} on" if (layer := arm.get("tower_layer")) else ""
        cells = [name, f"{arm['image_tokens_kept_mean']:.0f}", right(arm)]
        rows.append([*cells, *[percent(accuracy(arm, kind)) for kind in TYPES]])
    first = record["results"][0]
    header = ["patches in later layers", "image tokens", "all types (95 %)"]
    header += [kind.replace("_", " ") for kind in TYPES]
    note = f"`{first['method']}`, demo model, {first['n']} questions, seed {first['seed']}."
    return f"{table(header, rows)}\n\n{note} {source('tower_pruning', record)}"


def calibration_table() -> str:
    """The sign that calibration chose without labels, and the labelled accuracy of both."""
    record = load("calibration")
    if record is None:
        return pending("calibration", "bench_calibration")
    rows = []
    for name, one in record["results"].items():
        for kind, found in one["calibrations"].items():
            labelled = [one["labelled"][sign] for sign in ("+1", "-1")]
            signs = [right(each) for each in labelled]
            decided = "" if found["decisions"]["sign"]["decided"] else ", not decided"
            rows.append([name, kind, f"{one['chosen_sign'][kind]}{decided}", *signs, f"{found['seconds']:.0f} s"])
    config = record["config"]
    header = ["model", "asked", "sign chosen without labels", "right with +1 (95 %)", "right with -1 (95 %)", "took"]
    note = (
        f"{config['pictures']} pictures without labels; labelled: {config['n']} other questions at "
        f"{percent(config['share'])} of the tokens."
    )
    return f"{table(header, rows)}\n\n{note} {source('calibration', record)}"


def dialogues_table() -> str:
    """Accuracy by turn for every policy, and its share of the full model's."""
    record = load("dialogues")
    if record is None:
        return pending("dialogues")
    full = accuracy(record["results"][0])
    rows = []
    for arm in record["results"]:
        name = label(arm) if arm["method"] == "none" else f"{label(arm)}, `{arm['turns']}`"
        kept = (
            f"{arm['image_tokens_kept_mean']:.0f} ({percent(arm['image_tokens_kept_mean'] / arm['image_tokens_full'])})"
        )
        turns = [percent(share) for share in arm["accuracy_by_turn"]]
        rows.append([name, kept, *turns, right(arm), percent(accuracy(arm) / full)])
    first = record["results"][0]
    turns = [f"turn {turn + 1}" for turn in range(len(first["accuracy_by_turn"]))]
    header = ["method, policy", "image tokens a question", *turns, "all turns (95 %)", "of full"]
    note = f"{first['dialogues']} dialogues, {first['n']} questions, seed {first['seed']}."
    return f"{table(header, rows)}\n\n{note} {source('dialogues', record)}"


def bench_table(name: str) -> str:
    """One of the tables of ``trimkit bench``."""
    experiment, make = bench_tables.MAKERS[name]
    record = load(experiment)
    if record is None:
        return pending(experiment)
    header, rows, note = make(record)
    return f"{table(header, rows)}\n\n{note} {source(experiment, record)}"


def training_table() -> str:
    """Tokens, seconds and memory of a training step with all tokens and with TRIM, and what was learnt."""
    record = load("training")
    if record is None:
        return pending("training", "bench_training")
    memory, asked = record["memory"], record["accuracy"]
    parts = [("time of a step", "seconds", " s", 2), ("the same from features on", "from_features", " s", 2)]
    parts.append(("tokens of a step in the language model", "tokens", "", 0))
    rows = []
    for title, key, unit, digits in parts:
        full, trim, steps = (record[key][name] for name in ("none", "trim", "ratio_by_step"))
        cells = [f"{each['median']:.{digits}f}{unit}" for each in (full, trim)]
        rows.append([title, *cells, f"{record[key]['ratio']:.2f} ({steps['q1']:.2f} to {steps['q3']:.2f})"])
    for title, key in (("peak memory above that before training", "above"), ("peak memory of the process", "peak")):
        cells = [f"{memory[name][f'{key}_mb']:.0f} MB" for name in ("none", "trim")]
        rows.append([title, *cells, f"{memory[f'{key}_ratio']:.2f}"])
    said = [right(one) for one in map(asked.get, TRAINED)]
    gap, config = asked["difference"], record["config"]
    rows.append(
        ["held-out questions right (95 %)", *said, f"{100 * gap['value']:+.1f} points ({interval(gap['ci95'])})"]
    )
    before, crossed, back = (
        percent(asked[key]["accuracy"]) for key in ("before", "trim_asked_full", "full_asked_trim")
    )
    note = (
        f"{config['steps']} steps of {config['batch']} pictures, {config['dtype']}, frozen tower, seed {config['seed']}; "
        f"medians, quartiles of the ratio within a step. {config['n']} held-out questions; before training {before} right. "
        f"Trained with TRIM and asked with all tokens: {crossed}; the other way round: {back}."
    )
    return f"{table(['', 'all tokens', '`trim`', 'ratio'], rows)}\n\n{note} {source('training', record)}"


def made_of(name: str, make: Callable[[Record], str]) -> Callable[[], str]:
    """A table of one experiment's record, with its source."""

    def fresh() -> str:
        record = load(name)
        return pending(name) if record is None else f"{make(record)} {source(name, record)}"

    return fresh


TABLES: dict[str, Callable[[], str]] = {
    "demo": heading_table,
    "demo-full": demo_table,
    "default": default_table,
    **{name: functools.partial(bench_table, name) for name in bench_tables.MAKERS},
    "dialogues": dialogues_table,
    "positions": positions_table,
    "training": training_table,
    "tower-pruning": tower_table,
    "calibration": calibration_table,
    "suite": made_of("suite", suite_tables.curves),
    "suite-types": made_of("suite", suite_tables.by_type),
    "suite-pairs": made_of("suite", suite_tables.pairs),
    "robustness": made_of("robustness", suite_tables.shifts),
    "ablation": made_of("ablation", suite_tables.effects),
    "ablation-arms": made_of("ablation", suite_tables.grid),
}

PLOTS = {"suite": ROOT / "docs" / "images" / "suite.svg"}


def plots() -> list[tuple[Path, str]]:
    """Every plot whose experiment has been run, as a file and what is to be in it."""
    records = {name: load(name) for name in PLOTS}
    return [
        (PLOTS[name], suite_plot.svg(record["results"][0])) for name, record in records.items() if record is not None
    ]


def main() -> int:
    """Fill the ``table:`` blocks of every page, and draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a page is out of date")
    check = parser.parse_args().check
    filled = [(page, fill(page.read_text(encoding="utf-8"), TABLES, "table")) for page in pages() if page.is_file()]
    return update([*filled, *plots()], check=check, remedy="python -m benchmarks.tables")


if __name__ == "__main__":
    sys.exit(main())
