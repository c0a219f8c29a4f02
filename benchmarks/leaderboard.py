"""The leaderboard: the packaged JSON and the page's table, from ``suite_ten_types``, ``bench_rivals`` and rows that were added.

``python -m benchmarks.tables`` writes both. ``python -m benchmarks.leaderboard_row METHOD`` measures one more method.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.blocks import ROOT
from benchmarks.cells import table
from benchmarks.records import RESULTS, Record, load, source
from benchmarks.suite_filtered import LITERAL

__all__ = ["FILES", "TABLES", "board", "page_table"]

PATH = ROOT / "src" / "trimkit" / "eval" / "leaderboard.json"
SUITE, COST = "suite_ten_types", "bench_rivals"
DOWNSAMPLED = "resize"


def board() -> dict[str, Any]:
    """What ``trimkit.eval.leaderboard.load_leaderboard`` gives.

    Raises:
        LookupError: the suite has not been run.
    """
    record = load(SUITE)
    if record is None:
        raise LookupError(f"no results/{SUITE}.json: python -m benchmarks.run {SUITE}")
    run = record["results"][0]
    full = next(arm for arm in run["arms"] if arm["method"] == "none")
    costs = _costs(load(COST))
    entries = {(each["method"], each["budget"]): each for each in _entries(SUITE, run, costs)}
    for name, row in _rows():
        suite_run = row["results"][0]
        own = {**costs, **_costs({"results": [row["bench"]]} if row.get("bench") else None)}
        entries |= {(e["method"], e["budget"]): e for e in _entries(name, suite_run, own, same_as=run)}
    return {
        "version": 1,
        "suite": {key: run[key] for key in ("n", "n_by_type", "seed", "image_tokens_full")} | {"source": SUITE},
        "full": _entry(full, run, {}, SUITE) | {"budget": run["image_tokens_full"]},
        "entries": [_with_filtered(each, entries, full) for _, each in sorted(entries.items(), key=_place)],
    }


def _place(item: tuple[tuple[str, int], dict[str, Any]]) -> tuple[str, int]:
    (method, budget), _ = item
    return method, -budget


def _rows() -> list[tuple[str, Record]]:
    """Rows of single methods, as ``leaderboard_row`` wrote them."""
    paths = sorted((RESULTS / "rows").glob("*.json"))
    return [(f"rows/{path.stem}", json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def _entries(name: str, run: Record, costs: dict[str, float], same_as: Record | None = None) -> list[dict[str, Any]]:
    """One entry a method and fixed budget; its ``hits`` go once the filtered score is known.

    A method with the sign of another tower (``suite_filtered.LITERAL``) is told by the run that takes this one's.
    """
    others = "" if same_as is None or _comparable(run, same_as) else "other questions or weights than the rest"
    found = []
    for arm in run["arms"]:
        plain = arm["method"] not in LITERAL and " " not in arm["method"] and "fallback" not in arm
        if (plain or arm["method"] in LITERAL.values()) and arm["method"] != "none" and str(arm["budget"]).isdigit():
            note = others or ("" if plain else "with `sign=auto`")
            found.append(_entry(arm, run, costs, name) | {"note": note, "hits": "" if others else arm["hits"]})
    return found


def _comparable(run: Record, other: Record) -> bool:
    """Whether both runs asked the same questions of the same weights: the full model's answers tell."""
    full = [next(arm["hits"] for arm in each["arms"] if arm["method"] == "none") for each in (run, other)]
    return (run["seed"], run["n"]) == (other["seed"], other["n"]) and full[0] == full[1]


def _entry(arm: Record, run: Record, costs: dict[str, float], name: str) -> dict[str, Any]:
    from trimkit.methods import get_method

    whole, name_of_it = arm["method"] == "none", arm["method"].split()[0]
    method = get_method(name_of_it, **({} if whole else {"budget": int(arm["budget"])}))
    cost = costs.get(name_of_it)
    return {
        "method": name_of_it,
        "budget": run["image_tokens_full"] if whole else int(arm["budget"]),
        "image_tokens": round(arm["image_tokens_kept_mean"], 1),
        "n": run["n"],
        "accuracy": round(arm["accuracy"], 4),
        "ci95": [round(bound, 4) for bound in arm["ci95"]],
        "relative": round(arm["relative"]["value"], 4),
        "filtered": None,
        "by_type": {kind: round(value, 4) for kind, value in arm["accuracy_by_type"].items()},
        "choosing_ms": None if cost is None else round(1000 * cost, 2),
        "vllm": bool(method.fits_engines),
        "reads_question": bool(type(method).uses_text),
        "stage": method.stage,
        "note": "",
        "source": f"benchmarks/results/{name}.json",
    }


def _costs(record: Record | None) -> dict[str, float]:
    """Seconds a picture for text, choosing and shortening, by method, in a request with a new question."""
    stages = ("text", "select", "shrink")
    arms = [] if record is None else record["results"][0]["arms"]
    return {
        arm["method"]: sum(arm["stages_s"][stage]["median"] for stage in stages)
        for arm in arms
        if arm["method"] != "none"
    }


def _with_filtered(
    entry: dict[str, Any], entries: dict[tuple[str, int], dict[str, Any]], full: Record
) -> dict[str, Any]:
    """The entry with its score on questions that the full model gets right and a picture of as many tokens gets wrong."""
    small = entries.get((DOWNSAMPLED, entry["budget"]), {}).get("hits", "")
    hits = entry["hits"]
    rest = {key: value for key, value in entry.items() if key != "hits"}
    if not small or not hits:
        return rest
    hard = [at for at, (whole, less) in enumerate(zip(full["hits"], small, strict=True)) if (whole, less) == ("1", "0")]
    if not hard:
        return rest
    right = sum(hits[at] == "1" for at in hard)
    return rest | {"filtered": {"n": len(hard), "accuracy": round(right / len(hard), 4)}}


def page_table() -> str:
    """A row a method and budget, the best first; the site makes the columns sortable."""
    record = load(SUITE)
    if record is None:
        return f"*Not measured yet: `python -m benchmarks.run {SUITE}` writes `benchmarks/results/{SUITE}.json`.*"
    found = board()
    kinds = list(found["full"]["by_type"])
    entries = sorted(found["entries"], key=lambda each: (-each["accuracy"], each["method"]))
    rows = [_row(each, kinds) for each in [found["full"], *entries]]
    header = ["method", "image tokens", "accuracy (95%)", "of full", "filtered"]
    header += [*[kind.replace("_", " ") for kind in kinds], "choosing, ms", "vLLM", "reads the question"]
    notes = sorted({each["note"] for each in entries if each["note"]})
    text = [table(header, rows), *[f"\\* {note[0].upper()}{note[1:]}." for note in notes]]
    about = f"{found['suite']['n']} questions, seed {found['suite']['seed']}. {source(SUITE, record)}"
    cost = load(COST)
    timing = "" if cost is None else f" Choosing: {source(COST, cost)}"
    return "\n\n".join([*text, about + timing])


def _row(entry: dict[str, Any], kinds: list[str]) -> list[str]:
    low, high = entry["ci95"]
    filtered, cost = entry["filtered"], entry["choosing_ms"]
    return [
        f"`{entry['method']}`" + (" \\*" if entry["note"] else ""),
        f"{entry['image_tokens']:.0f}",
        f"{_percent(entry['accuracy'])} ({100 * low:.1f} to {100 * high:.1f})",
        _percent(entry["relative"]),
        "" if filtered is None else f"{_percent(filtered['accuracy'])} of {filtered['n']}",
        *[_percent(entry["by_type"][kind]) for kind in kinds],
        "" if cost is None else f"{cost:.1f}",
        "yes" if entry["vllm"] else "no",
        "yes" if entry["reads_question"] else "no",
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _text() -> str:
    return json.dumps(board(), indent=1, ensure_ascii=False) + "\n"


TABLES = {"leaderboard": page_table}
FILES: list[tuple[Path, Any]] = [(PATH, _text)]
"""Files that ``python -m benchmarks.tables`` writes besides the pages: path, and what makes the text."""
