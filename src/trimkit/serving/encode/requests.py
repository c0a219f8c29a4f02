"""A chat request taken apart: what is rendered and encoded here, and what the engine is to be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimkit.io.text import is_text, parse_json
from trimkit.io.validation import first_fault
from trimkit.serving.encode.encoder import EncodedPicture
from trimkit.serving.encode.prompt import TextAround
from trimkit.serving.server.errors import bad_request
from trimkit.serving.server.schema import ImagePart, Message, TextPart, TrimRequest

__all__ = ["EncodeRequest", "upstream_body"]

_MOST_TURNS = 1000
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


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    trim: TrimRequest | None = None


class EncodeRequest(BaseModel):
    """One chat request; fields that are not named here go to the engine as they are, which checks them.

    Attributes:
        messages: the conversation.
        stream: whether the reply comes in pieces.
        mm_processor_kwargs: holds ``trim``, how this request is reduced.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    messages: list[Message] = Field(min_length=1, max_length=_MOST_TURNS)
    stream: bool | None = None
    mm_processor_kwargs: _Arguments | None = None

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Read the body of a request.

        Raises:
            ApiError: a 400 that names the field.
        """
        try:
            content = parse_json(body.decode())
        except (ValueError, RecursionError) as error:
            raise bad_request(f"the body is no JSON ({str(error)[:120]}): send a JSON object") from None
        if not isinstance(content, dict):
            raise bad_request("the body is no JSON object: send one with 'model' and 'messages'")
        try:
            request = cls.model_validate(content)
        except ValidationError as error:
            where, message, _ = first_fault(error)
            raise bad_request(f"'{where}': {message}", where or None) from None
        request._refuse()
        return request

    @property
    def trim(self) -> TrimRequest:
        """How it is to be reduced."""
        given = self.mm_processor_kwargs
        return TrimRequest() if given is None or given.trim is None else given.trim

    @property
    def passed(self) -> dict[str, Any]:
        """What the engine is told beside the prompt."""
        given: Mapping[str, Any] = self.model_extra or {}
        kept = {name: value for name, value in given.items() if name not in _HERE and name not in _REFUSED}
        return kept if self.stream is None else {**kept, "stream": self.stream}

    def _refuse(self) -> None:
        extra = self.model_extra or {}
        for name, why in _REFUSED.items():
            if extra.get(name) not in (None, [], {}, False):
                raise bad_request(f"'{name}' is not taken: {why}", name, "unsupported_parameter")
        if self.trim.report and self.stream:
            raise bad_request("a report comes with a whole reply: leave 'stream' out", "stream")
        if self.trim.query is not None and not (self.trim.query.strip() and is_text(self.trim.query)):
            raise bad_request("the query is no text: leave it out", "mm_processor_kwargs.trim.query")
        for number, message in enumerate(self.messages):
            _refuse_turn(message, f"messages.{number}")


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
    return {**request.passed, "messages": messages, "add_special_tokens": around.add_special_tokens}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _refuse_turn(message: Message, where: str) -> None:
    for name, value in (message.model_extra or {}).items():
        if value not in (None, [], {}, ""):
            raise bad_request(f"'{where}.{name[:80]}' is not served here: leave it out", f"{where}.{name[:80]}")
    parts = [] if isinstance(message.content, str) else message.content
    if message.role != "user" and any(isinstance(part, ImagePart) for part in parts):
        raise bad_request(f"'{where}' is of the role {message.role}: pictures stand in turns of the user", where)
    texts = [message.content] if isinstance(message.content, str) else []
    if not all(map(is_text, [*texts, *(part.text for part in parts if isinstance(part, TextPart))])):
        raise bad_request(f"'{where}.content' holds lone surrogates, which are no letters: send UTF-8", where)
