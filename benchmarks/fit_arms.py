"""Answers of several scorers and budgets to the same questions, written down as they come, and what they say side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.fit_world import items_of
from trimkit import get_method, reduce
from trimkit.ask import build_inputs, decode
from trimkit.demo.questions import grade
from trimkit.demo.typed_items import ALL_TYPES
from trimkit.eval.statistics import PairedBootstrap
from trimkit.loading import load_model
from trimkit.pipeline.feature_cache import FeatureCache

__all__ = ["BUDGETS", "Asked", "compared", "run"]

BUDGETS = (64, 32, 16)
_NEW_TOKENS = 4


@dataclass(frozen=True)
class Asked:
    """What is asked: of which model, with which scorers by name (None is the model's own)."""

    model: str
    scorers: dict[str, str | None]
    seed: int
    n: int
    shift: str = "none"
    device: str = "cpu"
    batch: int = 16

    @property
    def arms(self) -> list[str]:
        """The full model, and every scorer at every budget."""
        return ["full", *(f"{name}@{budget}" for name in self.scorers for budget in BUDGETS)]


def run(test: Asked, journal: Path) -> dict[str, list[dict[str, Any]]]:
    """By arm, an entry a question: ``hit``, ``same`` (as the full model) and ``type``. Goes on from ``journal``."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    if journal.is_file():
        whole = [line for line in journal.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        rows = [json.loads(line) for line in whole]
        journal.write_text("".join(whole), encoding="utf-8")  # a run that was killed may have left half a line
    if len(rows) < test.n:
        with journal.open("a", encoding="utf-8") as file:
            for row in _asked(test, len(rows)):
                rows.append(row)
                file.write(json.dumps(row) + "\n")
                file.flush()
    return {arm: [{**row[arm], "type": row["type"]} for row in rows[: test.n]] for arm in test.arms}


def _asked(test: Asked, first: int) -> Any:
    model, processor = load_model(test.model, device=test.device)
    cache = FeatureCache(test.batch)
    shared: dict[str, Any] = {"cache_images": cache}
    arms = {"full": reduce(model, processor, method="none", **shared)}
    for name, scorer in test.scorers.items():
        for budget in BUDGETS:
            method = get_method("focus", budget=budget)
            arms[f"{name}@{budget}"] = reduce(model, processor, method=method, scorer=scorer, **shared)
    for start in range(first, test.n, test.batch):
        items = items_of(test.seed, range(start, min(start + test.batch, test.n)), test.shift)
        questions = [question.text for _, question in items]
        pictures = [picture for picture, _ in items]
        inputs = build_inputs(model, processor, pictures, questions, max_new_tokens=_NEW_TOKENS)
        asked = {**inputs, "query": questions, "max_new_tokens": _NEW_TOKENS, "do_sample": False}
        replies = {}
        with torch.no_grad():
            for arm, trim in arms.items():
                replies[arm] = decode(processor, inputs, trim.run_detached(model.generate, asked))
        for i, (_, question) in enumerate(items):
            full = replies["full"][i]
            row: dict[str, Any] = {"type": question.type}
            for arm, said in replies.items():
                row[arm] = {"hit": int(grade(said[i], question)), "same": int(said[i] == full)}
            yield row


def compared(rows: dict[str, list[dict[str, Any]]], seed: int = 0) -> dict[str, Any]:
    """Accuracy and agreement with the full model, of all questions and by type; fitted minus each other scorer, paired."""
    kinds: Sequence[str] = ("all", *ALL_TYPES)
    found: dict[str, Any] = {}
    for kind in kinds:
        places = [i for i, row in enumerate(rows["full"]) if kind in ("all", row["type"])]
        if not places:
            continue
        found[kind] = {"n": len(places)}
        for what in ("hit", "same"):
            paired = PairedBootstrap({arm: [each[i][what] for i in places] for arm, each in rows.items()}, seed=seed)
            found[kind][what] = {
                "share": {arm: paired.accuracy(arm) for arm in rows},
                "ci95": {arm: paired.interval(arm) for arm in rows},
                "of_full": {arm: paired.ratio(arm, "full") for arm in rows},
                "fitted_minus": {
                    arm: paired.difference(f"fitted@{arm.rpartition('@')[2]}", arm)
                    for arm in rows
                    if "@" in arm and not arm.startswith("fitted@") and f"fitted@{arm.rpartition('@')[2]}" in rows
                },
            }
    return found
