"""Replies that are generated together are, token for token, those that an attached model gives alone; for every family."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import trimkit
from tests.contract.families import FAMILIES, FamilyCase
from tests.tiny import ToyScorer
from trimkit.methods import get_method

pytest.importorskip("prometheus_client")

from trimkit.serving.server.engine import Engine
from trimkit.serving.server.jobs import Failed, Finished, Job
from trimkit.serving.server.metrics import Metrics
from trimkit.serving.server.prefill import Prefill
from trimkit.serving.server.sampling import Sampling
from trimkit.serving.server.settings import Limits

QUERY = "question one"
BUDGETS = (0.3, 5, 0.6, 1.0)
LENGTHS = (4, 9, 2, 6)


class Numbers:
    """A tokenizer that writes tokens as numbers."""

    def decode(self, ids: Any, **options: Any) -> str:
        return "".join(f"{each} " for each in ids)


class Room:
    """A prompt builder where everything fits."""

    def check_room(self, prompt: int, tokens: int | None, limit: int) -> int:
        return tokens or limit


def run(model: Any, jobs: list[Job], scorer: Any, *, merges: bool = True) -> None:
    """All jobs through an engine that can run three at a time, so that some join while others run."""
    prefill = Prefill(model, None, scorer)
    prefill.merges = merges
    engine = Engine(model, Numbers(), prefill, Room(), Limits(batch=3), Metrics())  # type: ignore[arg-type]
    left = threading.Semaphore(0)
    for job in jobs:
        job.emit = lambda event, job=job: (  # type: ignore[misc]
            job.__dict__.setdefault("events", []).append(event),
            left.release() if isinstance(event, (Finished, Failed)) else None,
        )
        engine.submit(job)
    engine.start()
    for _ in jobs:
        assert left.acquire(timeout=120)
    engine.close()
    for job in jobs:
        assert isinstance(job.__dict__["events"][-1], Finished), job.__dict__["events"][-1]


def job_of(inputs: Any, pictures: int, budget: Any, tokens: int, method: str = "trim") -> Job:
    chosen = get_method(method, budget=budget)
    return Job(inputs, pictures, chosen, QUERY, "refresh", Sampling(), (), tokens, lambda event: None)


def alone(model: Any, inputs: Any, budget: Any, tokens: int, scorer: Any, method: str = "trim") -> list[int]:
    with trimkit.reduce(model, method=method, scorer=scorer, budget=budget):
        out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False, query=QUERY)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


# One of each kind of position, cache and attention is quick; LFM2's cache is not made of keys and values alone.
QUICK = ("llava", "gemma3", "lfm2_vl", "paligemma", "qwen3_vl")


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[] if each in QUICK else pytest.mark.slow) for each in sorted(FAMILIES)]
)
def test_together_as_alone(name: str) -> None:
    case: FamilyCase = FAMILIES[name]
    merges = name != "lfm2_vl"
    model, scorer = case.build(), ToyScorer()
    batch = case.batch("left")
    rows = [case.single(batch, row) for row in range(4)]
    jobs = [
        job_of(row, pictures, budget, tokens)
        for row, pictures, budget, tokens in zip(rows, (1, 2, 0, 1), BUDGETS, LENGTHS, strict=True)
    ]
    run(model, jobs, scorer, merges=merges)
    for job, row, budget, tokens in zip(jobs, rows, BUDGETS, LENGTHS, strict=True):
        assert job.ids == alone(model, row, budget, tokens, scorer)
