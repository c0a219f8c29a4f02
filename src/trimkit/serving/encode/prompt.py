"""A chat as the text around its pictures, and the question in it, rendered by the checkpoint's own template."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trimkit.errors import UnsupportedError
from trimkit.pipeline.query_reader import QueryReader
from trimkit.serving.openai_api.errors import RequestError

__all__ = ["PromptRenderer", "TextAround"]


@dataclass(frozen=True)
class TextAround:
    """A rendered chat without its pictures.

    Attributes:
        pieces: the text before the first picture, between two, and behind the last: one more than there are pictures.
        add_special_tokens: whether the tokenizer is to add its own, which the template has not written.
        question: what the user says last, or None where the user says nothing.
    """

    pieces: list[str]
    add_special_tokens: bool
    question: str | None


class PromptRenderer:
    """Renders chats for one checkpoint.

    Args:
        processor: the checkpoint's.
        image_token_id: of its placeholder.

    Raises:
        UnsupportedError: the processor has no chat template.
    """

    def __init__(self, processor: Any, image_token_id: int) -> None:
        if not getattr(processor, "chat_template", None):
            raise UnsupportedError(
                "the checkpoint has no chat template: add its chat_template.jinja, which chat requests are rendered with"
            )
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._image_id = image_token_id
        self._reserved = frozenset(inspect.signature(processor.apply_chat_template).parameters)
        self._reader = QueryReader(processor)
        self.image_token: str = self._tokenizer.convert_ids_to_tokens(image_token_id)

    def __call__(self, turns: Sequence[Mapping[str, Any]], pictures: int, **options: Any) -> TextAround:
        """Render ``turns`` that hold so many pictures.

        Args:
            turns: messages as ``apply_chat_template`` takes them.
            pictures: parts of type ``image`` in them.
            **options: what the template is given beside them (``add_generation_prompt``, ``tools`` ...).

        Raises:
            RequestError: the template refuses them, a text holds the placeholder, or an option is not the template's.
        """
        text = self._render(turns, options)
        pieces = text.split(self.image_token)
        if len(pieces) != pictures + 1:
            raise RequestError(
                f"the prompt has {len(pieces) - 1} places for {pictures} pictures: leave {self.image_token!r} out of the "
                "text, and put pictures into messages of the user",
                param="messages",
            )
        bos = self._tokenizer.bos_token
        add_special = not (bos is not None and text.startswith(bos))  # as transformers' processors decide
        return TextAround(pieces, add_special, self._question(text) if pictures else None)

    def _render(self, turns: Sequence[Mapping[str, Any]], options: dict[str, Any]) -> str:
        own = {"add_generation_prompt", "continue_final_message", "tools", "documents"}
        if unknown := sorted(set(options) & (self._reserved - own)):
            raise RequestError(f"chat_template_kwargs has {unknown[0]!r}, which is not the template's: leave it out")
        try:
            return str(self._processor.apply_chat_template([dict(turn) for turn in turns], tokenize=False, **options))
        except RequestError:
            raise
        except Exception as error:  # templates raise errors of their own, and Jinja's
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise RequestError(f"the chat template refuses these messages ({said})", param="messages") from None

    def _question(self, text: str) -> str | None:
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return self._reader.read(torch.tensor(ids), self._image_id) or None
