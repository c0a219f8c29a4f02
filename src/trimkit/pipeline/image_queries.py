"""Which questions an image is scored against: in a conversation, those of the user turns that the policy names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trimkit.core.choices import QueryFrom, TurnPolicy, check_choice
from trimkit.errors import ConfigError, InputError
from trimkit.pipeline.media import ImageQueries, MediaItem
from trimkit.pipeline.prompt_text import encodable
from trimkit.pipeline.query_reader import QueryReader
from trimkit.pipeline.training_queries import make_reader, without_answers

__all__ = ["AskedOf", "QueryFinder", "each_row", "query_rounds"]

_EARLIER = "this turn has no words: chosen for what the user said before"
_NOTHING = "the conversation has no words: chosen at equal distances"


@dataclass(frozen=True)
class AskedOf:
    """What is asked of every image of a call.

    Attributes:
        queries: its questions so far, the last one last; ``(None,)`` where there is none.
        notes: why these are not the words of its turn, or None; no entry at all where none is needed.
    """

    queries: list[ImageQueries]
    notes: tuple[str | None, ...] = ()


def query_rounds(queries: Sequence[ImageQueries]) -> Iterator[list[str | None]]:
    """One question an image, round by round; an image with fewer repeats its last. Without images, one empty round."""
    for turn in range(max(map(len, queries), default=1)):
        yield [each[min(turn, len(each) - 1)] for each in queries]


class QueryFinder:
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
        check_choice("query_from", query_from, QueryFrom)
        check_choice("turns", policy, TurnPolicy)
        self.policy = policy
        self._query_from = query_from
        self._processor = processor
        self._reader: QueryReader | None = None

    def of_images(
        self,
        ids: Tensor,
        image_token_id: int,
        items: Sequence[MediaItem],
        query: str | Sequence[str] | None,
        earlier: Sequence[ImageQueries],
        method: str,
        labels: Tensor | None = None,
        *,
        training: bool = False,
    ) -> AskedOf:
        """All questions about every image so far, the last one last.

        A picture in a turn without words is asked what the user said last before; where the user said nothing at all, nothing.

        Args:
            ids: ``[B, L]`` prompts, where all of a video is placeholders.
            image_token_id: the placeholder.
            items: the images, where they stand.
            query: the question as the caller gives it: one, or one a row; None to read it from the prompt.
            earlier: what was asked before of the images at the head of each row, where the caller gives the questions.
            method: named in errors.
            labels: ``[B, L]`` where the model trains; what has one is no question.
            training: whether the model trains, with labels or with a loss of the caller's.

        Raises:
            InputError: the queries do not match the rows.
            ConfigError: nothing to read the prompt with.
        """
        if query is not None:
            given = each_row(query, len(ids))
            return AskedOf([(*before, given[item.row]) for before, item in zip(earlier, items, strict=True)])
        if self._reader is None:
            if self._processor is None:
                raise ConfigError(f"method {method!r} reads the question: pass the model's processor, or query='...'")
            self._reader = make_reader(self._processor, self._query_from)
        rows = {item.row for item in items}
        ids = without_answers(self._reader, ids, labels, image_token_id, rows, training=training)
        return self._read(self._reader, ids, image_token_id, items)

    def chosen(self, asked: ImageQueries) -> ImageQueries:
        """Those of an image's questions that choose its tokens."""
        said = tuple(text for text in asked if text) or asked[-1:]
        return said if self.policy == "union" else said[:1] if self.policy == "first" else asked[-1:]

    def _read(self, reader: QueryReader, ids: Tensor, image_token_id: int, items: Sequence[MediaItem]) -> AskedOf:
        rows, prompts = {item.row for item in items}, ids.unbind(0)
        if self.policy == "refresh":  # the commonest case needs the last turn only
            last = {row: _of_last(*reader.last(prompts[row], image_token_id)) for row in rows}
            found = [last[item.row] for item in items]
        else:
            turns = {row: reader.turns(prompts[row], image_token_id) for row in rows}
            first = [reader.turn_at(prompts[item.row], image_token_id, item.first) for item in items]
            found = [_from_turn(turns[item.row], start) for item, start in zip(items, first, strict=True)]
        return AskedOf([queries for queries, _ in found], tuple(note for _, note in found))


def _of_last(words: str, own: bool) -> tuple[ImageQueries, str | None]:
    """What is asked in the last turn; failing that (not ``own``), what was said last before it."""
    return (words or None,), None if own else _EARLIER if words else _NOTHING


def _from_turn(said: Sequence[str], first: int) -> tuple[ImageQueries, str | None]:
    """What is asked from turn ``first`` on; failing that, what was said last before it."""
    own = tuple(filter(None, said[first:]))
    return (own, None) if own else _of_last(next(filter(None, reversed(said[:first])), ""), False)


def each_row(query: str | Sequence[str], rows: int) -> list[str]:
    """One question a row.

    Raises:
        InputError: it is no text, or not as many as there are rows.
    """
    if isinstance(query, str):
        return [encodable(query)] * rows
    if not isinstance(query, Sequence):
        raise InputError(f"query {query!r} is no text: give one question, or one a row")
    if not all(isinstance(each, str) for each in query):
        raise InputError("query holds something that is not text: give one question a row, or one for all")
    if len(query) != rows:
        raise InputError(f"query has {len(query)} entries for {rows} rows: give one a row, or one string")
    return list(map(encodable, query))
