"""Tables of the scenes suite: what each method keeps of the full model, by type of question, by pairs, under shifts."""

from __future__ import annotations

from benchmarks import suite_plot
from benchmarks.blocks import ROOT
from benchmarks.cells import interval, percent, points, table
from benchmarks.records import Record, made_of
from benchmarks.suite_filtered import filtered, footnotes, learnt_note, literal, named, padding

__all__ = ["PLOTS", "TABLES", "by_type", "curves", "effects", "filtered", "grid", "padding", "pairs", "shifts"]


def curves(record: Record) -> str:
    """A row a method: accuracy and share of the full model's at each budget, best first by the smallest."""
    run = record["results"][0]
    arms = {(named(arm["label"], arm["budget"]), str(arm["budget"])): arm for arm in run["arms"]}
    full = arms[("none", "default")]
    budgets = budgets_of(run)
    names = sorted(
        {method for method, budget in arms if budget in budgets} - literal(run),
        key=lambda name: (-_least(arms, name, budgets), name),
    )
    rows = [
        [
            "`none`, all tokens",
            *[""] * len(budgets),
            f"{percent(full['accuracy'])} at {full['image_tokens_kept_mean']:.0f}",
        ]
    ]
    for name in names:
        cells = [_curve_cell(arms.get((name, budget))) for budget in budgets]
        own = arms.get((name, "default"))
        default = "" if own is None else f"{percent(own['accuracy'])} at {own['image_tokens_kept_mean']:.0f}"
        rows.append([_name(name, run), *cells, default])
    header = ["method", *[f"{budget} tokens" for budget in budgets], "own default"]
    note = (
        f"Accuracy, and in brackets the share of the full model's; {run['n']} questions, seed {run['seed']}, "
        f"{run['image_tokens_full']} tokens a picture."
    )
    return f"{table(header, rows)}\n\n{_joined(note, learnt_note(run), footnotes(run))}"


def by_type(record: Record) -> str:
    """Every arm with a fixed budget: accuracy by type of question."""
    run = record["results"][0]
    kinds = list(run["n_by_type"])
    rows = []
    for arm in run["arms"]:
        cells = [percent(arm["accuracy_by_type"][kind]) for kind in kinds]
        whole = f"{percent(arm['accuracy'])} ({interval(arm['ci95'])})"
        rows.append([f"`{arm['label']}`", f"{arm['image_tokens_kept_mean']:.0f}", whole, *cells])
    header = ["method@budget", "image tokens", "all types (95 %)", *[kind.replace("_", " ") for kind in kinds]]
    return f"{table(header, rows)}\n\n{_questions(run)}"


def pairs(record: Record) -> str:
    """Our method minus every other at equal tokens; bold where the interval does not hold 0."""
    run = record["results"][0]
    budgets = budgets_of(run)
    found = {(named(entry["other"], entry["budget"]), str(entry["budget"])): entry for entry in run["comparisons"]}
    names = [name for name in dict.fromkeys(name for name, _ in found) if name not in literal(run)]
    rows = [
        [f"`{name}`", *[points(found[(name, budget)]) if (name, budget) in found else "" for budget in budgets]]
        for name in names
    ]
    for kind in run["n_by_type"]:
        chance = [found.get(("random", budget), {}).get("by_type", {}).get(kind) for budget in budgets]
        if any(chance):
            rows.append(
                [f"`random`, {kind.replace('_', ' ')}", *["" if each is None else points(each) for each in chance]]
            )
    header = [f"`{run['ours']}` minus", *[f"{budget} tokens" for budget in budgets]]
    note = "Points of accuracy, with 95 % intervals of the paired bootstrap; bold where the interval does not hold 0."
    return f"{table(header, rows)}\n\n{note} {_clear(run)} {_questions(run)}"


def _clear(run: Record) -> str:
    """How many differences are clear, one by one and for as many as there are; literal runs, which are footnotes, left out."""
    shown = [each for each in run["comparisons"] if named(each["other"], str(each["budget"])) not in literal(run)]
    by_type = [(each, kind, one) for each in shown for kind, one in each.get("by_type", {}).items()]
    worse = [
        f"{kind.replace('_', ' ')} at {each['budget']}, `{named(each['other'], str(each['budget']))}` ({points(one)})"
        for each, kind, one in by_type
        if one["value"] < 0 and _among_all(one)
    ]
    text = f"Differences to other methods that are clear by their own interval: {_counted(shown)}."
    if by_type:
        text += f" By type of question: {_counted([one for _, _, one in by_type])}"
        text += f": {'; '.join(worse)}." if worse else "."
    return text


def _counted(found: list[Record]) -> str:
    below, above = (
        [sum(sign * each["value"] > 0 and clear(each) for each in found) for clear in (_alone, _among_all)]
        for sign in (-1, 1)
    )
    number = f"with Holm's correction for their number {below[1]} and {above[1]}"
    return f"{below[0]} of {len(found)} below 0, {above[0]} above; {number}"


def _alone(entry: Record) -> bool:
    return bool(entry["significant"])


def _among_all(entry: Record) -> bool:
    return bool(entry["p_holm"] < 0.05)


def shifts(record: Record) -> str:
    """A table a shift, or a query: accuracy of each method at each budget."""
    parts = []
    for run in record["results"]:
        arms = {(named(arm["label"], arm["budget"]), str(arm["budget"])): arm for arm in run["arms"]}
        budgets = budgets_of(run)
        names = sorted(
            {name for name, budget in arms if budget in budgets}, key=lambda name: (-_least(arms, name, budgets), name)
        )
        kinds = list(run["n_by_type"])
        rows = [_shift_row("`none`", arms[("none", "default")], len(budgets), kinds)]
        for name in names:
            cells = [percent(arms[(name, budget)]["accuracy"]) if (name, budget) in arms else "" for budget in budgets]
            last = arms[(name, budgets[-1])]["accuracy_by_type"]
            rows.append([_name(name, run), *cells, *[percent(last[kind]) for kind in kinds]])
        short = [f"{kind.replace('_', ' ')}, {budgets[-1]}" for kind in kinds]
        header = [
            run["shift"] if run.get("query") is None else f"“{run['query']}”",
            *[f"{budget} tokens" for budget in budgets],
            *short,
        ]
        parts.append(table(header, rows))
    run = record["results"][0]
    return (
        "\n\n".join(parts)
        + f"\n\n{run['n']} questions a table, seed {run['seed']}; the columns by type are at the last budget."
    )


def effects(record: Record) -> str:
    """What each option of the grids is worth."""
    rows = [
        [
            f"`{entry['method']}`: `{entry['option']}`",
            f"`{entry['reference']}` to `{entry['value']}`",
            points(entry["alone"]),
            points(entry["on_average"]),
        ]
        for run in record["results"]
        for entry in run.get("effects", ())
    ]
    run = record["results"][0]
    note = "Points of accuracy, 95 % intervals of the paired bootstrap; bold where the interval does not hold 0."
    return f"{table(['option', 'change', 'alone', 'on average'], rows)}\n\n{note} {_questions(run)}"


def grid(record: Record) -> str:
    """Every point of the grids."""
    rows = [
        [
            f"`{arm['method']}`",
            "" if arm["budget"] == "default" else f"`{arm['budget']}`",
            f"{arm['image_tokens_kept_mean']:.1f}",
            f"{percent(arm['accuracy'])} ({interval(arm['ci95'])})",
        ]
        for run in record["results"]
        for arm in run["arms"]
    ]
    run = record["results"][0]
    return f"{table(['method', 'options', 'image tokens', 'all types (95 %)'], rows)}\n\n{_questions(run)}"


def budgets_of(run: Record) -> list[str]:
    """The budgets that were asked for by number, largest first."""
    found = {str(arm["budget"]) for arm in run["arms"] if arm["method"] != "none" and str(arm["budget"]).isdigit()}
    return sorted(found, key=lambda budget: -int(budget))


def _least(arms: Record, name: str, budgets: list[str]) -> float:
    arm = arms.get((name, budgets[-1]))
    return 0.0 if arm is None else float(arm["accuracy"])


def _curve_cell(arm: Record | None) -> str:
    if arm is None:
        return ""
    share = arm.get("relative", {}).get("value")
    return percent(arm["accuracy"]) + ("" if share is None else f" ({100 * share:.1f})")


def _shift_row(name: str, full: Record, budgets: int, kinds: list[str]) -> list[str]:
    return [
        name,
        percent(full["accuracy"]),
        *[""] * (budgets - 1),
        *[percent(full["accuracy_by_type"][k]) for k in kinds],
    ]


def _name(name: str, run: Record) -> str:
    return f"**`{name}`**" if name == run.get("ours") else f"`{name}`"


def _questions(run: Record) -> str:
    return _joined(f"{run['n']} questions, seed {run['seed']}.", learnt_note(run))


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


TABLES = {
    "suite-ten-types": made_of("suite_ten_types", curves),
    "suite-ten-types-by-type": made_of("suite_ten_types", by_type),
    "suite-ten-types-pairs": made_of("suite_ten_types", pairs),
    "suite-ten-types-filtered": made_of("suite_ten_types", filtered),
    "padding": made_of("padding", padding),
    "robustness": made_of("robustness", shifts),
    "vague": made_of("vague", shifts),
    "ablation": made_of("ablation", effects),
    "ablation-arms": made_of("ablation", grid),
    "ablation-focus": made_of("ablation_focus", effects),
    "ablation-focus-arms": made_of("ablation_focus", grid),
}

PLOTS = {
    "suite_ten_types": (ROOT / "docs" / "images" / "suite_ten_types.svg", suite_plot.svg),
}
"""Name of the experiment: where its plot stands, and what draws its first result."""
