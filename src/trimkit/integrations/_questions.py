"""Which questions an image is scored against: in a conversation, those of the user turns that the policy names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from trimkit.errors import ConfigError, InputError
from trimkit.integrations._answers import QueryFrom, check_query_from, make_reader, without_answers
from trimkit.query import QueryReader

__all__ = ["Asked", "Questions", "TurnPolicy"]

TurnPolicy = Literal["refresh", "first", "union"]
Asked = tuple[str | None, ...]


class Questions:
    """Finds the questions asked of every image.

    Args:
        processor: the model's processor or None; needed where questions are read from the prompt.
        query_from: what is read there; see ``trimkit.reduce``.
        policy: what a later question of a conversation sees of an earlier image. ``refresh``: the tokens relevant to it;
            ``first``: those chosen for the first question about the image; ``union``: those chosen for any question so far.

    Raises:
        ConfigError: an unknown policy.
    """

    def __init__(self, processor: Any, policy: TurnPolicy, query_from: QueryFrom = "question") -> None:
        check_query_from(query_from)
        if policy not in get_args(TurnPolicy):
            raise ConfigError(f"turns={policy!r} is not known: choose one of {', '.join(get_args(TurnPolicy))}")
        self.policy = policy
        self._query_from = query_from
        self._processor = processor
        self._reader: QueryReader | None = None

    def of_images(
        self,
        ids: Tensor,
        image_token_id: int,
        rows: Sequence[int],
        totals: Sequence[int],
        query: str | Sequence[str] | None,
        earlier: Sequence[Asked],
        method: str,
        labels: Tensor | None = None,
    ) -> list[Asked]:
        """All questions about every image so far, the last one last.

        Args:
            ids: ``[B, L]`` prompts.
            image_token_id: the placeholder.
            rows, totals: batch row and token count of every image.
            query: the question as the caller gives it: one, or one a row; None to read it from the prompt.
            earlier: what was asked before of the images at the head of each row, where the caller gives the questions.
            method: named in errors.
            labels: ``[B, L]`` where the model trains; what has one is no question.

        Raises:
            InputError: the queries do not match the rows.
            ConfigError: nothing to read the prompt with.
        """
        if query is not None:
            given = _each_row(query, len(ids))
            return [(*before, given[row]) for before, row in zip(earlier, rows, strict=True)]
        if self._reader is None:
            if self._processor is None:
                raise ConfigError(f"method {method!r} reads the question: pass the model's processor, or query='...'")
            self._reader = make_reader(self._processor, self._query_from)
        ids = without_answers(self._reader, ids, labels, image_token_id)
        return self._read(self._reader, ids, image_token_id, rows, totals)

    def chosen(self, asked: Asked) -> Asked:
        """Those of an image's questions that choose its tokens."""
        said = tuple(text for text in asked if text) or asked[-1:]
        return said if self.policy == "union" else said[:1] if self.policy == "first" else asked[-1:]

    def _read(
        self, reader: QueryReader, ids: Tensor, image_token_id: int, rows: Sequence[int], totals: Sequence[int]
    ) -> list[Asked]:
        if self.policy == "refresh":  # the commonest case needs the last turn only
            texts = {row: reader.read(ids[row], image_token_id) for row in sorted(set(rows))}
            return [(texts[row],) for row in rows]
        asked, done = [], dict.fromkeys(rows, 0)
        turns = {row: reader.turns(ids[row], image_token_id) for row in done}
        for row, total in zip(rows, totals, strict=True):
            column = int((ids[row] == image_token_id).nonzero()[done[row]])
            done[row] += total
            asked.append(tuple(turns[row][reader.turn_at(ids[row], image_token_id, column) :]))
        return asked


def _each_row(query: str | Sequence[str], rows: int) -> list[str]:
    if isinstance(query, str):
        return [query] * rows
    if not all(isinstance(each, str) for each in query):
        raise InputError("query holds something that is not text: give one question a row, or one for all")
    if len(query) != rows:
        raise InputError(f"query has {len(query)} entries for {rows} rows: give one a row, or one string")
    return list(query)
