"""A chat as the text around its pictures, and the question in it, rendered by the checkpoint's own template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trimkit.errors import UnsupportedError
from trimkit.pipeline.query_reader import QueryReader
from trimkit.serving.server.errors import bad_request
from trimkit.serving.server.messages import Message
from trimkit.serving.server.prompts import PromptBuilder

__all__ = ["PromptRenderer", "TextAround", "added_tokens"]


@dataclass(frozen=True)
class TextAround:
    """A rendered chat without its pictures.

    Attributes:
        pieces: the text before the first picture, between two, and behind the last: one more than there are pictures. The
            tokens that the tokenizer adds by itself are in it, as text: engines that render a chat template add none.
        question: what the user says last, or None where the user says nothing.
    """

    pieces: list[str]
    question: str | None


class PromptRenderer:
    """Renders chats for one checkpoint. Not for several threads at once.

    Args:
        model, processor: of the checkpoint; the model's language model may be empty.
        image_token_id: of its placeholder.

    Raises:
        UnsupportedError: the tokenizer adds tokens that no text stands for.
    """

    def __init__(self, model: Any, processor: Any, image_token_id: int) -> None:
        self._prompts = PromptBuilder(model, processor)
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._image_id = image_token_id
        self._reader = QueryReader(processor)
        self.image_token: str = self._tokenizer.convert_ids_to_tokens(image_token_id)
        self._added = added_tokens(self._tokenizer)

    def __call__(self, messages: Sequence[Message], pictures: int) -> TextAround:
        """Render messages that hold so many pictures.

        Raises:
            ApiError: a 400: the template refuses them, or a text holds the placeholder.
        """
        text = self._prompts.render(messages)
        pieces = text.split(self.image_token)
        if len(pieces) != pictures + 1:
            raise bad_request(
                f"the chat template leaves {len(pieces) - 1} places for {pictures} pictures: put them into other turns",
                "messages",
            )
        bos = self._tokenizer.bos_token
        if not (bos is not None and text.startswith(bos)):  # as transformers' processors decide
            before, after = self._added
            pieces[0] = before + pieces[0]
            pieces[-1] += after
        return TextAround(pieces, self._question(text) if pictures else None)

    def _question(self, text: str) -> str | None:
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return self._reader.read(torch.tensor(ids), self._image_id) or None


def added_tokens(tokenizer: Any) -> tuple[str, str]:
    """What a tokenizer puts before and behind a text by itself, as text that it reads as those tokens.

    Raises:
        UnsupportedError: no text stands for them.
    """
    plain, whole = (tokenizer("x", add_special_tokens=added, verbose=False)["input_ids"] for added in (False, True))
    start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), None)
    if start is not None:
        parts = (whole[:start], whole[start + len(plain) :])
        before, after = ("".join(tokenizer.convert_ids_to_tokens(part)) for part in parts)
        if tokenizer(f"{before}x{after}", add_special_tokens=False, verbose=False)["input_ids"] == whole:
            return before, after
    raise UnsupportedError(
        f"{type(tokenizer).__name__} adds tokens that no text stands for, and engines that render a chat template add none: "
        "use the plugin within vLLM, or transformers"
    )
