"""Answers to scenes by many ways of reducing, and how sure the model was of them; what ``bench_promise`` reckons with.

Every scene is drawn and encoded once, the full model answers once, and every way chooses from the same features. Rows go into a
journal, so that an interrupted run goes on where it was, and ways or scenes that are added later are asked alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trimkit
from trimkit import EncoderProfile, get_method
from trimkit.ask import build_inputs, decode
from trimkit.calibration import Outcomes, Way
from trimkit.calibration._outcomes import said_number
from trimkit.core.confidence import answer_confidence
from trimkit.demo import load_demo
from trimkit.demo.questions import grade
from trimkit.demo.typed_items import sample_typed_item
from trimkit.eval.identity import method_identity, scorer_identity, weights_identity
from trimkit.eval.journal import Journal
from trimkit.eval.question_types import BASIC
from trimkit.io.provenance import versions
from trimkit.methods import Method
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.pipeline.model_store import scorer_of
from trimkit.scorers import Scorer

__all__ = ["DIALS", "LENGTH", "Answers", "gathered", "right_ways", "wrong_ways"]

COUNTS = (8, 16, 32, 64, 144)
DIALS = (0.1, 0.2)
WRONG_COUNTS = (16, 64, 144)
LENGTH = 4  # tokens of an answer, which is one word
BATCH = 16
SIGNALS: tuple[Any, ...] = tuple(
    (measure, tokens) for measure in ("margin", "probability", "entropy") for tokens in (1, LENGTH)
)


def right_ways() -> list[Method]:
    """``focus`` at many budgets, and ``trim`` at 16 tokens."""
    sizes: list[Any] = [*COUNTS, *(f"auto:{dial}" for dial in DIALS)]
    return [*(get_method("focus", budget=size) for size in sizes), get_method("trim", budget=16)]


def wrong_ways(scorer: Path | None = None) -> list[Method]:
    """``focus`` that takes the most relevant patches for the least relevant ones, by the model's own scorer or another."""
    model, _ = load_demo()
    own = scorer_of(model, scorer).profile  # type: ignore[union-attr]
    wrong = EncoderProfile(-own.sign, own.normalize, own.temperature)
    return [get_method("focus", budget=count, profile=wrong) for count in WRONG_COUNTS]


@dataclass(frozen=True)
class Answers:
    """One way on scenes 0 to n - 1; ``hit`` and ``full_hit`` ``[n]`` are 1 where the reduced and the full answer are right."""

    outcomes: Outcomes
    hit: Any
    full_hit: Any

    def of(self, scenes: Any) -> Answers:
        """Some of the scenes, by number."""
        return Answers(self.outcomes.of(np.asarray(scenes, dtype=np.float64)), self.hit[scenes], self.full_hit[scenes])


def gathered(
    methods: Sequence[Method],
    seed: int,
    n: int,
    journal: Path | None,
    advance: Callable[[int], None] = lambda done: None,
    types: tuple[str, ...] = BASIC,
    scorer: Path | None = None,
) -> list[Answers]:
    """What every method answers to scenes 0 to n - 1 of ``seed``.

    Args:
        methods: ways of reducing.
        seed, n: which scenes.
        journal: file of finished answers, or None.
        advance: called with the number of scenes done.
        types: of question; they take turns.
        scorer: folder of a fitted one; None is the model's own.
    """
    model, processor = load_demo()
    found = scorer_of(model, scorer)
    settings: dict[str, Any] = {
        "seed": seed,
        "batch": BATCH,
        "length": LENGTH,
        "weights": weights_identity(model),
        "versions": versions(),
        **({} if types == BASIC else {"types": list(types)}),
        **({} if scorer is None or found is None else {"scorer": scorer_identity(found)}),
    }
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ["full", *map(method_identity, methods)]}
    with Journal(journal, settings) if journal else _Forgetful() as book:
        asker = _Asker(model, processor, seed, book, types, found)
        for start in range(0, n, BATCH):
            for name, found in asker.batch(range(start, start + BATCH), methods):
                rows[name] += found
            advance(min(start + BATCH, n))
    full = rows["full"][:n]
    return [_answers(method, rows[method_identity(method)][:n], full) for method in methods]


class _Forgetful:
    """A journal that holds nothing."""

    def get(self, task: str, row_id: Any) -> None:
        return None

    def add(self, task: str, rows: Any) -> None:
        return None

    def __enter__(self) -> _Forgetful:
        return self

    def __exit__(self, *raised: object) -> None:
        return None


class _Asker:
    """Asks a batch of scenes in every way that has not been asked."""

    def __init__(
        self, model: Any, processor: Any, seed: int, book: Any, types: tuple[str, ...], scorer: Scorer | None
    ) -> None:
        self._model, self._processor, self._seed, self._book = model, processor, seed, book
        self._types, self._scorer = types, scorer
        self._ends = torch.tensor(np.atleast_1d(model.generation_config.eos_token_id))

    def batch(self, indices: range, methods: Sequence[Method]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Rows by way, ``full`` first."""
        named = {
            "full": get_method("random", budget=10**9, aggregate="none"),
            **{method_identity(m): m for m in methods},
        }
        known = {name: [self._book.get(name, index) for index in indices] for name in named}
        asked: _Batch | None = None
        for name, method in named.items():
            rows = known[name]
            if any(row is None for row in rows):
                asked = asked or _Batch(self._model, self._processor, self._seed, indices, self._types)
                rows = self._ask(asked, method)
                self._book.add(name, dict(zip(indices, rows, strict=True)))
            yield name, rows

    def _ask(self, batch: _Batch, method: Method) -> list[dict[str, Any]]:
        scorer = self._scorer if method.needs_relevance else None
        options = {"max_new_tokens": LENGTH, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        with (
            torch.no_grad(),
            trimkit.reduce(
                self._model, self._processor, method=method, scorer=scorer, query=batch.texts, cache_images=batch.cache
            ) as trim,
        ):
            out = self._model.generate(**batch.inputs, **options)
        start = batch.inputs["input_ids"].shape[1]
        tokens = out.sequences[:, start:]
        ended = torch.isin(tokens, self._ends).int()
        real = (ended.cumsum(1) - ended) == 0
        logits = torch.stack(out.logits, dim=1)
        sure = [answer_confidence(logits[:, :count], real[:, :count], measure) for measure, count in SIGNALS]
        replies = decode(self._processor, batch.inputs, out.sequences)
        return [
            {
                "hit": int(grade(replies[row], question)),
                "tokens": tokens[row][real[row]].tolist(),
                "kept": trim.report.tokens_of_row(row),
                "full": sum(image.tokens_before for image in trim.report.images if image.row == row),
                "sure": [float(f"{float(each[row]):.7g}") for each in sure],
            }
            for row, question in enumerate(batch.questions)
        ]


class _Batch:
    """Scenes, their questions and inputs; features are held for all ways."""

    def __init__(self, model: Any, processor: Any, seed: int, indices: range, types: tuple[str, ...]) -> None:
        items = [sample_typed_item(seed, index, types) for index in indices]
        pictures, self.questions = zip(*items, strict=True)
        self.texts = [question.text for question in self.questions]
        self.inputs = build_inputs(model, processor, list(pictures), self.texts, max_new_tokens=LENGTH)
        self.cache = FeatureCache(len(pictures))


def _answers(method: Method, rows: Sequence[dict[str, Any]], full: Sequence[dict[str, Any]]) -> Answers:
    changed = [float(row["tokens"] != whole["tokens"]) for row, whole in zip(rows, full, strict=True)]
    sure = np.array([[each if math.isfinite(each) else -math.inf for each in row["sure"]] for row in rows])
    outcomes = Outcomes(
        Way(method),
        np.arange(len(rows), dtype=np.float64),
        np.array(changed),
        np.array([row["kept"] for row in rows], dtype=np.float64),
        np.array([row["full"] for row in rows], dtype=np.float64),
        dict(zip(SIGNALS, sure.T, strict=True)),
        {count: np.array([said_number(row["tokens"][:count]) for row in rows]) for count in (1, LENGTH)},
    )
    return Answers(outcomes, np.array([row["hit"] for row in rows]), np.array([row["hit"] for row in full]))
