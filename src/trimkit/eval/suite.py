"""The scenes suite: many methods and budgets on the same held-out questions, in one pass over the pictures.

A picture is drawn and encoded once; every arm then chooses from the same features and answers the same question through stock
``generate``. What each arm answered to each question goes into a journal, a batch at a time, so that an interrupted run goes on
where it was, and arms that are added later are run alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimkit.errors import ConfigError
from trimkit.eval.identity import weights_identity
from trimkit.eval.journal import Journal
from trimkit.eval.suite_plan import Arm, Plan
from trimkit.eval.suite_work import Job, Rows, answered
from trimkit.io.numbers import MAX_WORKERS, check_whole

__all__ = ["Arm", "Outcomes", "Plan", "run"]


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

    def asked_again(self, arm: Arm) -> dict[str, float]:
        """Of an arm with a fallback: the share of questions that were asked on more than one rung, and mean seconds of all."""
        answered = [self.rows[arm.task][index] for index in range(self.plan.n)]
        again = sum(row["rungs"] > 1 for row in answered) / self.plan.n
        return {"asked_again": again, "seconds_mean": sum(row["seconds"] for row in answered) / self.plan.n}


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
    plan.check()
    if workers < 1:
        raise ConfigError(f"workers {workers} work on nothing: give 1 or more")
    check_whole("workers", workers, 1, MAX_WORKERS)
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
    return Outcomes(plan, tuple(plan.types[index % len(plan.types)] for index in range(plan.n)), rows)


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
