"""Replies that are generated together: rows of one KV cache, each with its own end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trimkit.serving.server.errors import error_of
from trimkit.serving.server.jobs import Delta, Failed, Finished, Job
from trimkit.serving.server.kv_batch import KVBatch
from trimkit.serving.server.reply_text import ReplyText
from trimkit.serving.server.sampling import Sampler

__all__ = ["Group", "Row"]


class Row:
    """One reply in the making.

    Args:
        job: what was asked.
        tokenizer: decodes.
        ends: ids that end it.
        prompt: ``[L']`` ids of the prompt as run.
        limit: how many tokens it may have.
    """

    def __init__(self, job: Job, tokenizer: Any, ends: Sequence[int], prompt: Tensor, limit: int) -> None:
        self.job = job
        self._ends, self._limit = frozenset(ends), limit
        self._text = ReplyText(tokenizer, job.stops)
        self._sampler = Sampler(job.sampling, prompt, ends)

    @property
    def last(self) -> int:
        """The token drawn last."""
        return self.job.ids[-1]

    def draw(self, logits: Tensor) -> int:
        """The next token from logits ``[V]``."""
        return self._sampler.draw(logits, len(self.job.ids))

    def scores(self, logits: Tensor) -> Tensor:
        """``[V]`` what the next token is drawn from, before temperature and the like."""
        return self._sampler.scores(logits, len(self.job.ids))

    def take(self, token: int) -> bool:
        """Add ``token`` to the reply and tell of it; False where that was the end, or nobody wants it any more."""
        job = self.job
        job.ids.append(token)
        if job.cancelled:
            return False
        if token in self._ends:
            return self._finish("stop")
        piece = self._text.add(token)
        if piece:
            job.emit(Delta(piece))
        if self._text.stopped:
            return self._finish("stop")
        return True if len(job.ids) < self._limit else self._finish("length")

    def _finish(self, reason: str) -> bool:
        piece = self._text.end()
        if piece:
            self.job.emit(Delta(piece))
        self.job.emit(Finished("stop" if self._text.stopped else reason, len(self.job.ids)))
        return False


class Group:
    """Rows that step together.

    Args:
        model: runs the steps.
    """

    def __init__(self, model: Any) -> None:
        self.rows: list[Row] = []
        self._cache = KVBatch(model)

    def join(self, row: Row, cache: Any, length: int, position: Tensor) -> None:
        """Add ``row``; see ``KVBatch.join``."""
        self._cache.join(cache, length, position)
        self.rows.append(row)

    def step(self) -> None:
        """One more token for every row that is still wanted; those that are done leave."""
        self._leave([not row.job.cancelled for row in self.rows])
        if not self.rows:
            return
        logits = self._cache.step([row.last for row in self.rows])
        self._leave([self._advance(row, each) for row, each in zip(self.rows, logits, strict=True)])

    def _advance(self, row: Row, logits: Tensor) -> bool:
        """Whether the row goes on. Its logits may be broken; the others' are not."""
        try:
            return row.take(row.draw(logits))
        except Exception as error:
            row.job.emit(Failed(error_of(error)))
            return False

    def _leave(self, stays: Sequence[bool]) -> None:
        if all(stays):
            return
        kept = [i for i, stay in enumerate(stays) if stay]
        self._cache.keep(kept)
        self.rows = [self.rows[i] for i in kept]
