"""Tables of the demo model's accuracy: with fewer tokens, other options, other positions, in conversations."""

from __future__ import annotations

from benchmarks.cells import percent, table
from benchmarks.records import Record, accuracy, label, made_of, right

__all__ = ["TABLES"]

TYPES = ("existence", "attribute", "counting", "relation", "multiple_choice", "reading")
NAMED = ("existence", "attribute", "counting")
"""Question types whose question names what it needs to see."""


def heading(record: Record) -> str:
    """README's first screen: full, trim and random, in one table."""
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
    return f"{table([*header, 'all types (95 %)'], rows)}\n\n{note}"


def every_type(record: Record) -> str:
    """Every arm and every question type, with intervals where the command gives them."""
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
    return f"{table(header, rows)}\n\n{note}"


def default(record: Record) -> str:
    """What each choice in ``trim`` is worth on the demo model."""
    rows = []
    for arm, asked in zip(record["results"], record["config"]["arms"], strict=True):
        named = f"{percent(mean_over(arm, NAMED))}"
        total = right(arm)
        rows.append([f"`{' '.join(asked['set'])}`", f"{arm['image_tokens_kept_mean']:.0f}", named, total])
    first = record["results"][0]
    header = ["options of `trim`", "image tokens", "existence, attribute, counting", "all types (95 %)"]
    return f"{table(header, rows)}\n\n{first['n']} questions, seed {first['seed']}."


def positions(record: Record) -> str:
    """Contiguous and original numbering of kept tokens, by type."""
    rows = []
    for arm in record["results"]:
        name = label(arm) if arm["method"] == "none" else f"{label(arm)}, {arm['positions']}"
        cells = [name, f"{arm['image_tokens_kept_mean']:.0f}", right(arm)]
        for kind in ("relation", "counting", "reading"):
            cells.append(right(arm, kind))
        rows.append(cells)
    first = record["results"][0]
    header = ["method, positions", "image tokens", "all types (95 %)", "relation", "counting", "reading"]
    return f"{table(header, rows)}\n\n{first['n']} questions, seed {first['seed']}."


def tower(record: Record) -> str:
    """Accuracy with patches dropped inside the vision tower."""
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
    return f"{table(header, rows)}\n\n{note}"


def dialogues(record: Record) -> str:
    """Accuracy by turn for every policy, and its share of the full model's."""
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
    return f"{table(header, rows)}\n\n{note}"


def mean_over(arm: Record, kinds: tuple[str, ...]) -> float:
    """Unweighted mean of the accuracies of several types (an experiment asks as many of each)."""
    return sum(accuracy(arm, kind) for kind in kinds) / len(kinds)


TABLES = {
    "demo": made_of("demo_scenes", heading),
    "demo-full": made_of("demo_scenes", every_type),
    "default": made_of("trim_default", default),
    "dialogues": made_of("dialogues", dialogues),
    "positions": made_of("positions", positions),
    "tower-pruning": made_of("tower_pruning", tower),
}
