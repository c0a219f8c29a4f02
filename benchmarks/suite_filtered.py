"""What the scenes suite says beside plain accuracy: the filtered score, types not learnt, and literal runs as footnotes."""

from __future__ import annotations

from benchmarks.cells import interval, percent, points, table
from benchmarks.records import Record
from trimkit.eval.statistics import PairedBootstrap

__all__ = ["filtered", "footnotes", "learnt_note", "literal", "named", "padding"]

LITERAL = {"trim-released": "trim-released sign=auto"}
"""A run that keeps the sign of another tower, and the one that takes this tower's."""


def named(label: str, budget: str) -> str:
    """An arm's name without its budget: ``trim`` of ``trim@16``, ``trim+fallback`` of ``trim@16+fallback``."""
    return label.replace(f"@{budget}", "")


def filtered(record: Record) -> str:
    """A row an arm: accuracy on the questions that the full model gets right and a smaller picture of as many tokens wrong."""
    run = record["results"][0]
    budgets = {str(each["budget"]): each for each in run["filtered"]}
    hidden = literal(run)
    cells: dict[str, dict[str, str]] = {}
    for budget, each in budgets.items():
        for arm in each["arms"]:
            name = named(arm["label"], budget)
            if name not in hidden and arm["accuracy"] is not None:
                cells.setdefault(name, {})[budget] = f"{percent(arm['accuracy'])} ({interval(arm['ci95'])})"
    last = list(budgets)[-1]
    scores = {named(arm["label"], last): arm["accuracy"] or 0.0 for arm in budgets[last]["arms"]}
    names = sorted(cells, key=lambda name: (-scores.get(name, 0.0), name))
    rows = [["questions left", *[str(each["n"]) for each in budgets.values()]]]
    rows += [[f"`{name}`", *[cells[name].get(budget, "") for budget in budgets]] for name in names]
    note = (
        "Accuracy on the questions that the full model gets right and `resize`, at the same budget, wrong (VTC-Bench, arXiv "
        f"2510.07143), with Wilson's 95 % intervals; {run['n']} questions before, seed {run['seed']}."
    )
    return f"{table(['method', *[f'{budget} tokens' for budget in budgets]], rows)}\n\n{note}"


def padding(record: Record) -> str:
    """A row a method: accuracy at each budget where padding can be chosen and where it cannot, and the difference."""
    runs = {run["padding"]: run for run in record["results"]}
    accuracy = {how: {arm["label"]: arm for arm in run["arms"]} for how, run in runs.items()}
    rows = []
    for label, kept in accuracy["keep"].items():
        skipped = accuracy["skip"][label]
        found = PairedBootstrap({how: [int(hit) for hit in accuracy[how][label]["hits"]] for how in accuracy})
        difference = points(found.difference("skip", "keep")) if label != "none" else ""
        rows.append([f"`{label}`", percent(kept["accuracy"]), percent(skipped["accuracy"]), difference])
    run = runs["keep"]
    note = (
        "Wide pictures made square, a third of whose patches see padding alone. Points of accuracy with 95 % intervals of the "
        f"paired bootstrap; bold where the interval does not hold 0. {run['n']} questions, seed {run['seed']}."
    )
    return f"{table(['method@budget', 'can be chosen', 'never chosen', 'difference'], rows)}\n\n{note}"


def literal(run: Record) -> set[str]:
    """Methods that belong into a footnote, since the run has them with this tower's sign as well."""
    named = {arm["method"] for arm in run["arms"]}
    return {name for name, other in LITERAL.items() if name in named and other in named}


def footnotes(run: Record) -> str:
    """A sentence for each method that the table leaves out; empty where there is none."""
    said = []
    for name in sorted(literal(run)):
        scores = [
            f"{percent(arm['accuracy'])} at {arm['budget']}"
            for arm in run["arms"]
            if arm["method"] == name and str(arm["budget"]).isdigit()
        ]
        said.append(
            f"`{name}` as its code has it keeps the sign of OpenAI's CLIP, and this tower's is the other one: "
            f"{', '.join(scores)}. "
            f"`{LITERAL[name]}` has this tower's sign and the same quirks."
        )
    return " ".join(said)


def learnt_note(run: Record) -> str:
    """Which types the full model does not know; empty where it knows all, or the run is older than the note."""
    kinds = [kind.replace("_", " ") for kind in run.get("not_learnt", ())]
    return f"Not learned, below 85 % with all tokens: {', '.join(kinds)}." if kinds else ""
