"""A conversation about one picture: every turn chooses the patches for its own question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trimkit.ask import build_chat_inputs, check_question
from trimkit.errors import InputError
from trimkit.methods import Method
from trimkit.web.answers import Progress, stream_answer
from trimkit.web.model import Loaded
from trimkit.web.pictures import Picture

__all__ = ["MOST_TURNS", "reply"]

MOST_TURNS = 12


def reply(
    loaded: Loaded, picture: Picture, said: Sequence[str], method: Method | None, new_tokens: int
) -> Iterator[Progress]:
    """The answer to the last question.

    Args:
        loaded: the model.
        picture: what the conversation is about.
        said: question, answer, question, ... in turn, a question last.
        method: how tokens are dropped; None for the full model.
        new_tokens: length limit.

    Raises:
        InputError: the question is empty, or the conversation is too long.
    """
    check_question(said[-1])
    if len(said) > 2 * MOST_TURNS:
        raise InputError(f"a conversation here has {MOST_TURNS} questions at most: clear it to begin anew")
    inputs = build_chat_inputs(loaded.model, loaded.processor, [picture.image], [list(said)], max_new_tokens=new_tokens)
    return stream_answer(loaded, inputs, said[-1], method, new_tokens)
