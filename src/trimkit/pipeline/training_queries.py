"""What of a training sequence scores an image: its questions, and the answers only where that is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from trimkit.core.choices import QueryFrom
from trimkit.errors import InputError
from trimkit.pipeline.query_reader import QueryReader, ReadPrompt

__all__ = ["ConversationReader", "make_reader", "without_answers"]

_NOT_LEARNT = -100


class ConversationReader(QueryReader):
    """Reads all that both sides say as if it were one question. A system prompt is left out."""

    def said(self, read: ReadPrompt, image_token_id: int) -> Iterator[str]:
        """One text: every word from the first user turn on, without role marks and special tokens."""
        yield self.everything(read, image_token_id)

    def turn_at(self, input_ids: Tensor, image_token_id: int, column: int) -> int:
        """The only one."""
        return 0


def make_reader(processor: Any, query_from: QueryFrom) -> QueryReader:
    """The reader of what ``query_from`` names."""
    return QueryReader(processor) if query_from == "question" else ConversationReader(processor)


def without_answers(
    reader: QueryReader,
    ids: Tensor,
    labels: Tensor | None,
    image_token_id: int,
    rows: Collection[int] | None = None,
    *,
    training: bool = False,
) -> Tensor:
    """``ids`` ``[B, L]`` in which nothing that is learnt can be read as a question.

    Where the prompt marks the end of a user turn there is nothing to do. Elsewhere the labels tell: what has one is hidden
    under placeholders, which no reader sees.

    Args:
        reader: reads the questions.
        ids: ``[B, L]``.
        labels: ``[B, L]`` or None.
        image_token_id: the placeholder.
        rows: those with pictures, of which a question is read; all by default. The others come back as they are.
        training: whether the model trains; then prompts without labels have to mark the end of the user's turn.

    Raises:
        InputError: neither marks nor labels tell question and answer apart, in a row that has pictures.
    """
    if isinstance(reader, ConversationReader):
        return ids
    if labels is None:
        for i in set(range(len(ids)) if rows is None else rows) if training else ():
            _refuse_unmarked(reader, ids[i], image_token_id)
        return ids
    learnt = labels.to(ids.device) != _NOT_LEARNT
    wanted = set(range(len(ids)) if rows is None else rows)
    shown = [
        _shown(reader, row, learnt[i], image_token_id) if i in wanted else row for i, row in enumerate(ids.unbind())
    ]
    return torch.stack(shown) if shown else ids


def _shown(reader: QueryReader, row: Tensor, learnt: Tensor, image_token_id: int) -> Tensor:
    if not learnt.any() or reader.ends_turns(row, image_token_id):
        return row
    hidden = reader.hidden(row, learnt, image_token_id)
    if reader.read(hidden, image_token_id):
        return hidden
    if reader.breaks_off(row, image_token_id):
        return row
    raise InputError(
        "question and answer cannot be told apart: the prompt marks no turns and labels cover all of it; set the labels of "
        f"the question to {_NOT_LEARNT}, or pass query="
    )


def _refuse_unmarked(reader: QueryReader, row: Tensor, image_token_id: int) -> None:
    """Refuse a prompt of training of which nothing says where the question ends: the answer would choose its own patches.

    Raises:
        InputError: as it says.
    """
    if not reader.ends_turns(row, image_token_id) and not reader.breaks_off(row, image_token_id):
        raise InputError(
            "question and answer cannot be told apart: the prompt marks no turns and no labels come along (a fused loss, "
            "or one outside of the model); pass query="
        )
