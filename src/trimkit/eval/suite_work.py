"""The suite's work: batches of questions answered in this process, or in several that each load the model for themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from trimkit.ask import build_inputs, decode
from trimkit.attach import Attachment, reduce
from trimkit.errors import TrimkitError
from trimkit.eval.shifts import apply_shift
from trimkit.eval.suite_plan import Plan
from trimkit.eval.tally import NEW_TOKENS
from trimkit.eval.worker_processes import interrupts_held_back, worker_pool
from trimkit.pipeline.encoding import shared_encoder
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.pipeline.model_store import scorer_of

__all__ = ["Job", "Rows", "answered"]

Rows = dict[str, dict[str | int, dict[str, Any]]]
"""Arm by ``Arm.task``, question by index: what is journalled."""


@dataclass(frozen=True)
class Job:
    """A batch of questions, and the places in ``Plan.arms`` of those that have not answered it."""

    indices: tuple[int, ...]
    arms: tuple[int, ...]


def answered(plan: Plan, jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Rows]]:
    """Every job with what its arms answered, in the order in which they are done.

    Raises:
        TrimkitError: whatever a job ends with, or a worker was killed.
    """
    if workers == 1 or len(jobs) < 2:
        asker = _Asker(plan) if jobs else None
        for job in jobs:
            if asker is not None:
                yield job, asker.answer(job)
        return
    with worker_pool(min(workers, len(jobs)), _start, plan) as pool:
        try:
            with interrupts_held_back():  # workers inherit that: they end by the parent's hand
                waiting = [pool.submit(_work, job) for job in jobs]
            for done in as_completed(waiting):
                yield done.result()
        except BrokenProcessPool:
            raise TrimkitError(
                "a worker was killed, perhaps for memory: run again with fewer --workers; with the same --journal it goes on"
            ) from None


_plan: Plan | None = None  # of a worker process, which has one plan all its life
_asker: _Asker | None = None


def _start(plan: Plan) -> None:
    """Set up a worker process. What can fail is left to the first job, whose error reaches the caller."""
    import torch
    from transformers import utils

    global _plan
    torch.set_num_threads(1)
    logging: Any = utils.logging  # typed only in part
    logging.disable_progress_bar()  # one a worker; and their locks outlive a worker that is killed
    logging.set_verbosity_error()
    _plan = plan


def _work(job: Job) -> tuple[Job, Rows]:
    global _asker
    if _plan is None:
        raise RuntimeError("the worker was not started by the suite")
    try:
        _asker = _asker or _Asker(_plan)
        return job, _asker.answer(job)
    except TrimkitError as error:  # as one that can be sent to another process, whatever its arguments
        raise TrimkitError(str(error)) from None


class _Asker:
    """The model, with an attachment an arm; all of them take their image features from one cache."""

    def __init__(self, plan: Plan) -> None:
        from trimkit.loading import load_model

        self._plan = plan
        self._model, self._processor = load_model(plan.model, device=plan.device, dtype=plan.dtype)
        scorer, cache = self._scorer(), FeatureCache(plan.batch_size)
        shared: dict[str, Any] = {
            "scorer": scorer,
            "positions": plan.positions,
            "padding": plan.padding,
            "cache_images": cache,
        }
        self._attached = [
            reduce(self._model, self._processor, method=arm.method, fallback=arm.fallback, **shared)
            for arm in plan.arms
        ]
        self._encode = shared_encoder(self._model, [arm.method for arm in plan.arms], cache)

    def answer(self, job: Job) -> Rows:
        """What the job's arms reply to its questions."""
        import torch

        from trimkit.demo.questions import grade
        from trimkit.demo.typed_items import sample_typed_item

        plan = self._plan
        items = [sample_typed_item(plan.seed, index, plan.types) for index in job.indices]
        pictures = [
            apply_shift(picture, plan.shift, index) for index, (picture, _) in zip(job.indices, items, strict=True)
        ]
        texts = [question.text for _, question in items]
        inputs = build_inputs(self._model, self._processor, pictures, texts, max_new_tokens=NEW_TOKENS)
        queries = texts if plan.query is None else [plan.query] * len(texts)
        asked = {**inputs, "query": queries, "max_new_tokens": NEW_TOKENS, "do_sample": False}
        found: Rows = {}
        with torch.no_grad():
            self._encode(inputs)
            for place in job.arms:
                trim = self._attached[place]
                replies = decode(self._processor, inputs, trim.run_detached(self._model.generate, asked))
                hits = [int(grade(reply, question)) for reply, (_, question) in zip(replies, items, strict=True)]
                found[plan.arms[place].task] = dict(zip(job.indices, _rows(trim, hits, replies), strict=True))
        return found

    def _scorer(self) -> Any:
        """One for all arms, so that a question is read once; None where no arm reads it."""
        if not any(arm.method.needs_relevance for arm in self._plan.arms):
            return None
        return scorer_of(self._model, self._plan.scorer)


def _rows(trim: Attachment, hits: Sequence[int], replies: Sequence[str]) -> list[dict[str, Any]]:
    """What is journalled of one arm's batch."""
    full, seconds = [0] * len(hits), [0.0] * len(hits)
    kept = [trim.report.tokens_of_row(row) for row in range(len(hits))]
    for image in trim.report.images:
        full[image.row] += image.tokens_before
    rungs = [1] * len(hits)
    for number, rung in enumerate(trim.report.rungs, start=1):
        for row in rung.asked:
            rungs[row] = number
            seconds[row] += rung.seconds / len(rung.asked)
    told = [
        {"rungs": count, "seconds": took} if trim.report.rungs else {}
        for count, took in zip(rungs, seconds, strict=True)
    ]
    return [
        {"hit": hit, "kept": after, "full": before, "reply": reply, **more}
        for hit, after, before, reply, more in zip(hits, kept, full, replies, told, strict=True)
    ]
