"""The leaderboard: what each method keeps at each budget, what choosing costs, and where it works. Loads no torch.

The entries are ``leaderboard.json`` beside this file. ``python -m benchmarks.tables`` makes it from the results of the
repository; nothing is measured here.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from trimkit.errors import ConfigError

__all__ = ["SORT_KEYS", "Entry", "load_leaderboard", "pick", "question_types", "rank"]

Entry = dict[str, Any]

SORT_KEYS = ("accuracy", "relative", "filtered", "tokens", "choosing", "method")
"""What entries can be sorted by, besides the types of question."""

_SMALLEST_FIRST = frozenset({"tokens", "choosing", "method"})


def load_leaderboard() -> dict[str, Any]:
    """The packaged leaderboard.

    Returns:
        ``suite`` (questions, seed, full tokens, source), ``full`` (the entry of all tokens) and ``entries``. An entry has
        ``method``, ``budget`` (a number of tokens), ``image_tokens``, ``accuracy``, ``ci95``, ``relative`` (share of the full
        model's), ``by_type``, ``filtered`` (``accuracy`` over the ``n`` questions that the full model answers and a smaller
        picture of as many tokens does not; null where that was not run), ``choosing_ms`` (milliseconds a picture; null where
        not measured), ``vllm``, ``reads_question``, ``stage``, ``note`` and ``source``.
    """
    text = files("trimkit.eval").joinpath("leaderboard.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def question_types(board: dict[str, Any]) -> list[str]:
    """Types of question that the suite asks, in its order."""
    return list(board["full"]["by_type"])


def pick(
    entries: list[Entry],
    *,
    methods: list[str] | None = None,
    budget: int | None = None,
    vllm: bool = False,
    reads_question: bool | None = None,
) -> list[Entry]:
    """The entries that meet all that is given.

    Raises:
        ConfigError: a method or a budget that no entry has, with those that there are.
    """
    known, budgets = sorted({each["method"] for each in entries}), sorted({each["budget"] for each in entries})
    if unknown := [name for name in methods or () if name not in known]:
        raise ConfigError(f"no result of method {unknown[0]!r} yet: there are {', '.join(known)}")
    if budget is not None and budget not in budgets:
        raise ConfigError(f"no results at budget {budget}: there are {', '.join(map(str, budgets))}")
    return [
        each
        for each in entries
        if (methods is None or each["method"] in methods)
        and (budget is None or each["budget"] == budget)
        and (each["vllm"] or not vllm)
        and (reads_question is None or each["reads_question"] is reads_question)
    ]


def rank(entries: list[Entry], key: str, types: list[str]) -> list[Entry]:
    """Entries by ``key``, the best first; those without a value last, and equal ones by method and budget.

    Args:
        entries: of the leaderboard.
        key: one of ``SORT_KEYS``, or a type of question.
        types: the types that there are.

    Raises:
        ConfigError: an unknown key.
    """
    if key not in SORT_KEYS and key not in types:
        raise ConfigError(f"cannot sort by {key!r}: use one of {', '.join([*SORT_KEYS, *types])}")
    sign = 1 if key in _SMALLEST_FIRST else -1

    def place(entry: Entry) -> tuple[bool, Any, str, int]:
        value = _value(entry, key)
        ordered = value if value is None or isinstance(value, str) else sign * value
        return value is None, 0 if ordered is None else ordered, entry["method"], -entry["budget"]

    return sorted(entries, key=place)


def _value(entry: Entry, key: str) -> Any:
    if key in entry["by_type"]:
        return entry["by_type"][key]
    if key == "filtered":
        return None if entry["filtered"] is None else entry["filtered"]["accuracy"]
    return entry[{"tokens": "image_tokens", "choosing": "choosing_ms"}.get(key, key)]
