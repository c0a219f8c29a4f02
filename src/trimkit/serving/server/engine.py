"""Continuous micro-batches: one thread runs the model, step after step; requests join and leave between two steps.

Before every step up to four waiting requests are started: their pictures are reduced and their prompts run, one at a time. Then
all running replies get one more token, together. Who is cancelled, or done, leaves the batch after that step.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

import torch

from trimkit.serving.server.batching import Group, Row
from trimkit.serving.server.errors import ApiError, error_of
from trimkit.serving.server.jobs import Failed, Job
from trimkit.serving.server.memory import forget_frames
from trimkit.serving.server.metrics import Metrics
from trimkit.serving.server.prefill import Prefill, ReducedPrompt
from trimkit.serving.server.prompts import PromptBuilder
from trimkit.serving.server.rungs import begin
from trimkit.serving.server.settings import Limits

__all__ = ["Engine"]

_STARTS = 4  # a step: running replies wait for them

_log = logging.getLogger(__name__)


class Engine:
    """Generates replies in a thread of its own.

    Args:
        model, processor: the model and its processor.
        prefill: runs prompts.
        prompts: knows what room there is.
        limits: of the server.
        metrics: counts.
    """

    def __init__(
        self, model: Any, processor: Any, prefill: Prefill, prompts: PromptBuilder, limits: Limits, metrics: Metrics
    ) -> None:
        self._model = model
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._prefill, self._prompts, self._limits, self._metrics = prefill, prompts, limits, metrics
        self._ends = _ends_of(model)
        self._waiting: deque[Job] = deque()
        self._groups: list[Group] = []
        self._changed = threading.Condition()
        self._closing = False
        self._abort: ApiError | None = None
        self._thread = threading.Thread(target=self._work, name="trimkit-engine", daemon=True)
        metrics.watch("queue", "Requests that wait to be started.", lambda: len(self._waiting))
        metrics.watch("running", "Replies that are being generated.", lambda: self.running)

    @property
    def running(self) -> int:
        """Replies that are being generated."""
        return sum(len(group.rows) for group in list(self._groups))

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Let ``job`` wait for its turn."""
        with self._changed:
            if not self._closing:
                self._waiting.append(job)
                self._changed.notify()
                return
        job.emit(Failed(_stopping()))

    def abort(self) -> None:
        """Fail all that is waiting or running."""
        with self._changed:
            self._abort = _stopping()
            self._changed.notify()

    def close(self, seconds: float = 10.0) -> None:
        """Finish what is there, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _work(self) -> None:
        try:
            with torch.no_grad():
                while self._more():
                    self._start_some()
                    self._step()
        except BaseException:
            _log.exception("the engine has ended")
            raise
        finally:
            self._closing = True
            self._fail_all(ApiError(503, "the server's engine has ended: start the server again"))

    def _more(self) -> bool:
        """Wait for work; False at the end."""
        with self._changed:
            while not (self._waiting or self._groups or self._closing or self._abort):
                self._changed.wait()
            abort, self._abort = self._abort, None
        if abort is not None:
            self._fail_all(abort)
        return bool(self._waiting or self._groups) or not self._closing

    def _fail_all(self, error: ApiError) -> None:
        with self._changed:
            jobs = [*self._waiting, *(row.job for group in self._groups for row in group.rows)]
            self._waiting.clear()
            self._groups = []
        for job in jobs:
            if not job.cancelled:
                job.emit(Failed(error))

    def _start_some(self) -> None:
        started = 0
        while started < _STARTS and self.running < self._limits.batch:
            with self._changed:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            if not job.cancelled:
                started += 1
                self._start(job)

    def _start(self, job: Job) -> None:
        """Run the prompt of ``job``, and its first token; what fails here concerns this request alone."""
        try:
            begun = begin(job, self._model, self._prefill, self._row_of)
        except Exception as error:
            self._failed(job, error)
            return
        if job.counted:
            self._metrics.count_prompt(begun.prompt_tokens, begun.report, failed=begun.prompt.fallback)
        for event in (begun.started, *begun.events):
            job.emit(event)
        if begun.goes_on:
            self._join(begun.row, begun.length, begun.filled)

    def _row_of(self, job: Job, prompt: ReducedPrompt) -> Row:
        """The row of a prompt.

        Raises:
            ApiError: there is no room for it.
        """
        tokens = self._prompts.check_room(len(prompt.ids), job.tokens, self._limits.tokens)
        return Row(job, self._tokenizer, self._ends, prompt.ids, tokens)

    def _join(self, row: Row, length: int, filled: Any) -> None:
        if not (self._prefill.merges and self._groups):
            self._groups = [*self._groups, Group(self._model)]
        try:
            self._groups[-1].join(row, filled.cache, length, filled.position)
        except Exception as error:
            for each in [row, *self._groups[-1].rows]:
                self._failed(each.job, error)
            self._groups = self._groups[:-1]

    def _step(self) -> None:
        for group in self._groups:
            try:
                group.step()
            except Exception as error:
                for row in group.rows:
                    self._failed(row.job, error)
                group.rows = []
        self._groups = [group for group in self._groups if group.rows]

    def _failed(self, job: Job, error: Exception) -> None:
        told = error_of(error)
        if told.status >= 500:
            _log.error("a request failed: %s", error, exc_info=error)
        forget_frames(error)
        if not job.cancelled:
            job.emit(Failed(told))


def _stopping() -> ApiError:
    return ApiError(503, "the server is being stopped: try another, or again later", retry_after=10)


def _ends_of(model: Any) -> list[int]:
    """Ids that end a reply, as the checkpoint's ``generation_config`` names them."""
    found = model.generation_config.eos_token_id
    if found is None:
        found = getattr(model.config.get_text_config(), "eos_token_id", None)
    return [] if found is None else [int(each) for each in (found if isinstance(found, (list, tuple)) else [found])]
