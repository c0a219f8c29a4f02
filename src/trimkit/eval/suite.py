"""The scenes suite: many methods and budgets on the same held-out questions, in one pass over the pictures.

A picture is drawn and encoded once; every arm then chooses from the same features and answers the same question through stock
``generate``. What each arm answered to each question goes into a journal, a batch at a time, so that an interrupted run goes on
where it was, and arms that are added later are run alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trimkit._provenance import versions
from trimkit.errors import ConfigError
from trimkit.eval.identity import method_identity, weights_identity
from trimkit.eval.journal import Journal
from trimkit.eval.shifts import check_shift
from trimkit.eval.suite_work import Job, Rows, answered
from trimkit.eval.tally import check_arguments
from trimkit.integrations.transformers import Positions
from trimkit.methods import Method

__all__ = ["Arm", "Outcomes", "Plan", "run"]


@dataclass(frozen=True)
class Arm:
    """One method with its options, and the budget as it was asked for (``default`` for the method's own)."""

    method: Method
    asked: str = "default"

    @property
    def label(self) -> str:
        """``trim@64``, ``trim``."""
        return self.method.name if self.asked == "default" else f"{self.method.name}@{self.asked}"

    @cached_property
    def task(self) -> str:
        """Name in the journal: the same for the same method, options and budget, however they were asked for.

        The method's own code is part of it, so that answers of an earlier version of it are not taken for this one's.
        """
        return method_identity(self.method)


@dataclass(frozen=True)
class Plan:
    """Which questions are asked of which model.

    Attributes:
        model: ``demo``, a directory or a hub id; each worker loads it for itself.
        seed, n: which questions, how many; question i of a seed is always the same.
        arms: what answers them.
        batch_size: questions per ``generate`` call. ``trim-released`` takes its quartiles over the batch.
        shift: what is done to the pictures, see ``trimkit.eval.shifts``.
        positions: as ``trimkit.reduce`` takes them.
        query: what methods that read the text are given instead of each question, which the model is asked all the same; None
            for the question itself.
    """

    model: str
    seed: int
    n: int
    arms: tuple[Arm, ...]
    batch_size: int = 16
    shift: str = "none"
    positions: Positions = "auto"
    device: str = "cpu"
    dtype: str = "auto"
    query: str | None = None

    def check(self) -> None:
        """Refuse what cannot be asked.

        Raises:
            ConfigError: seed, n, batch size, shift, positions or query; no arm.
        """
        check_arguments(self.seed, self.n, self.batch_size, self.positions)
        check_shift(self.shift)
        if self.query is not None and not self.query.strip():
            raise ConfigError("query '' says nothing: give what patches are to be compared with, or leave it out")
        if not self.arms:
            raise ConfigError("there is nothing to compare: give at least one method")

    def of_them(self, indices: Sequence[int]) -> int:
        """How many of these are asked for; the last batch is filled up with more."""
        return sum(index < self.n for index in indices)

    def settings(self, weights: str) -> dict[str, Any]:
        """What has to be equal for an answer to be used again; ``weights`` names the model's."""
        named = {
            name: getattr(self, name)
            for name in ("model", "seed", "batch_size", "shift", "positions", "device", "dtype", "query")
        }
        return {**named, "weights": weights, "versions": versions()}


@dataclass(frozen=True)
class Outcomes:
    """What every arm answered: ``rows[task][index]`` holds ``hit`` (0 or 1), ``kept`` and ``full`` (image tokens)."""

    plan: Plan
    types: tuple[str, ...]
    rows: Rows

    def hits(self, arm: Arm) -> list[int]:
        """0 or 1 a question, in order."""
        answered = self.rows[arm.task]
        return [int(answered[index]["hit"]) for index in range(self.plan.n)]

    def mean(self, arm: Arm, what: str) -> float:
        """Mean of ``kept`` or ``full`` over the questions."""
        answered = self.rows[arm.task]
        return float(sum(answered[index][what] for index in range(self.plan.n)) / self.plan.n)


def run(
    plan: Plan,
    *,
    journal: Path | None = None,
    workers: int = 1,
    advance: Callable[[int], None] | None = None,
) -> Outcomes:
    """Ask every question of every arm.

    Args:
        plan: what to ask.
        journal: file of finished answers, to go on from and to add to; by default one that is thrown away.
        workers: processes that share the batches, each with one thread; 1 works in this process.
        advance: called with the number of questions done after each batch.

    Raises:
        ConfigError: the plan, fewer than one worker, or a journal of other settings.
        InputError: a journal that cannot be used.
    """
    from trimkit.demo.questions import TYPES

    plan.check()
    if workers < 1:
        raise ConfigError(f"workers {workers} work on nothing: give 1 or more")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "journal.jsonl" if journal is None else journal
        weights = "" if journal is None else _weights(plan)  # a journal that is thrown away meets no other training
        with Journal(path, plan.settings(weights)) as book:
            jobs = list(_jobs(plan, book))
            if advance is not None:
                advance(plan.n - sum(plan.of_them(job.indices) for job in jobs))
            for job, rows in answered(plan, jobs, workers):
                for task, found in rows.items():
                    book.add(task, found)
                if advance is not None:
                    advance(plan.of_them(job.indices))
            rows = {arm.task: {i: _held(book, arm, i) for i in range(plan.n)} for arm in plan.arms}
    return Outcomes(plan, tuple(TYPES[index % len(TYPES)] for index in range(plan.n)), rows)


def _held(book: Journal, arm: Arm, index: int) -> dict[str, Any]:
    found = book.get(arm.task, index)
    if found is None:
        raise ConfigError(f"question {index} has no answer of {arm.label}: run the suite again with the same journal")
    return found


def _jobs(plan: Plan, book: Journal) -> Iterator[Job]:
    for start in range(0, plan.n, plan.batch_size):
        # Whole batches always, the last one included: n then changes no answer of another question.
        indices = tuple(range(start, start + plan.batch_size))
        missing: dict[str, int] = {}
        for place, arm in enumerate(plan.arms):
            if any(book.get(arm.task, index) is None for index in indices):
                missing.setdefault(arm.task, place)
        if missing:
            yield Job(indices, tuple(missing.values()))


def _weights(plan: Plan) -> str:
    """Which training's answers these are."""
    from trimkit.loading import load_model

    model, _ = load_model(plan.model, device="cpu", dtype=plan.dtype)
    return weights_identity(model)
