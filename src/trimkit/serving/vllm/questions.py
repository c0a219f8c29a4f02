"""In the API server: which question the tokens of every picture of a request are chosen for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from trimkit.core.recent import Recent
from trimkit.pipeline.query_reader import QueryReader

__all__ = ["Questions", "ServedTurns"]

ServedTurns = Literal["refresh", "first", "once", "auto"]
"""``refresh`` and ``first`` are ``trimkit.reduce``'s; ``once``: the first question that anybody has asked about a picture;
``auto``: ``refresh`` while that prefills no more than stock vLLM, see ``own_choices``."""

_PICTURES = 16_384  # whose first question is remembered; a few hundred bytes each


class Questions:
    """Reads the questions of prompts.

    Args:
        processor: transformers' own, which knows the chat template.
        mark: id of the token that stands for a picture in a prompt.
    """

    def __init__(self, processor: Any, mark: int) -> None:
        self._reader, self._mark = QueryReader(processor), mark
        self._first: Recent[str, str] = Recent(_PICTURES)

    def last(self, prompt: Sequence[int]) -> str | None:
        """What is asked last; for every picture alike."""
        return self._reader.read(torch.tensor(list(prompt)), self._mark) or None

    def first(self, prompt: Sequence[int], count: int) -> list[str | None]:
        """What is asked first about each of ``count`` pictures, in the order of the prompt."""
        ids = torch.tensor(list(prompt))
        said = self._reader.turns(ids, self._mark)
        columns = (ids == self._mark).nonzero().squeeze(1).tolist()
        if len(columns) != count:
            return [_first(said, 0)] * count
        return [_first(said, self._reader.turn_at(ids, self._mark, column)) for column in columns]

    def once(self, asked: Sequence[str | None], keys: Sequence[str]) -> list[str | None]:
        """What was asked when a picture was first seen by this server, else what is asked now, which is remembered.

        Args:
            asked: about each picture.
            keys: of each picture's content.
        """
        return [self._remembered(question, key) for question, key in zip(asked, keys, strict=True)]

    def _remembered(self, question: str | None, key: str) -> str | None:
        known = self._first.get(key)
        if known is None and question is not None:
            self._first.put(key, question)
        return known or question


def _first(said: Sequence[str], turn: int) -> str | None:
    """What is asked first from ``turn`` on; failing that, what was said last before it."""
    own = next(filter(None, said[turn:]), None)
    return own or next(filter(None, reversed(said[:turn])), None)
