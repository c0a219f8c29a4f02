"""A chat request taken apart: what is rendered and encoded here, and what the engine is to be told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trimkit.serving.encode.encoder import EncodedPicture
from trimkit.serving.encode.prompt import TextAround
from trimkit.serving.server.errors import bad_request
from trimkit.serving.server.messages import ChatBody

__all__ = ["EncodeRequest", "upstream_body"]

_TURNS = "mm_processor_kwargs.trim.turns"
_FALLBACK = "mm_processor_kwargs.trim.fallback"
_HERE = frozenset(("messages", "mm_processor_kwargs", "add_special_tokens", "add_generation_prompt"))
_REFUSED = {
    "chat_template": "the checkpoint's own is used",
    "chat_template_kwargs": "the checkpoint's template is used as it is",
    "continue_final_message": "the prompt ends where a reply begins",
    "documents": "the checkpoint's template is used as it is",
    "media_io_kwargs": "pictures are read here",
    "prompt_embeds": "the embeddings are made here",
    "tools": "the checkpoint's template is used as it is",
}


class EncodeRequest(ChatBody):
    """One chat request; fields that are not named here go to the engine as they are, which checks them."""

    @property
    def passed(self) -> dict[str, Any]:
        """What the engine is told beside the prompt."""
        given: Mapping[str, Any] = self.model_extra or {}
        kept = {name: value for name, value in given.items() if name not in _HERE and name not in _REFUSED}
        return kept if self.stream is None else {**kept, "stream": self.stream}

    def refuse(self) -> None:
        """Refuse what the engine could not know, since the prompt is made here."""
        extra = self.model_extra or {}
        for name, why in _REFUSED.items():
            if extra.get(name) not in (None, [], {}, False):
                raise bad_request(f"'{name}' is not taken: {why}", name, "unsupported_parameter")
        if self.trim.report and self.stream:
            raise bad_request("a report comes with a whole reply: leave 'stream' out", "stream")
        if self.trim.turns not in (None, "refresh"):
            raise bad_request("turns: every reply here is chosen for its last question: leave it out", _TURNS)
        if self.trim.fallback not in (None, "none"):
            raise bad_request("fallback: the engine's own confidence is not known here: leave it out", _FALLBACK)
        for name, value in self.passed.items():
            if not _can_be_sent(value):
                message = f"'{name}' holds a number or a letter that JSON cannot carry: change it"
                raise bad_request(message, name)
        super().refuse()


def upstream_body(
    request: EncodeRequest, around: TextAround, pictures: Sequence[EncodedPicture], frame: tuple[str, str]
) -> dict[str, Any]:
    """The request that the engine is sent: one message of text and ``prompt_embeds`` parts.

    Args:
        request: what came.
        around: the rendered text.
        pictures: the embeddings between its pieces.
        frame: text before and behind each picture that the chat template does not write.
    """
    text, parts = around.pieces[0], []
    for picture, piece in zip(pictures, around.pieces[1:], strict=True):
        parts += [_text(text + frame[0]), {"type": "prompt_embeds", "data": picture.data}]
        text = frame[1] + piece
    content = [part for part in [*parts, _text(text)] if part.get("text") != ""]
    messages = [{"role": "user", "content": content}]
    return {**request.passed, "messages": messages, "add_special_tokens": False}


def _can_be_sent(value: Any) -> bool:
    """Not with NaN or infinite numbers, or halves of a letter."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
