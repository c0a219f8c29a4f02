"""A chat request taken apart: what is rendered and encoded here, and what the engine is to be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimkit.serving.encode.encoder import EncodedPicture
from trimkit.serving.encode.prompt import TextAround
from trimkit.serving.openai_api.chat import ChatPictures, parse_messages
from trimkit.serving.openai_api.errors import RequestError
from trimkit.serving.openai_api.limits import Limits

__all__ = ["EncodeRequest", "upstream_body"]

_TEMPLATE = ("tools", "documents", "add_generation_prompt", "continue_final_message")
_HERE = frozenset({"messages", "mm_processor_kwargs", "chat_template_kwargs", "add_special_tokens", *_TEMPLATE[1:]})
_REFUSED = {
    "chat_template": "the checkpoint's own is used",
    "prompt_embeds": "this server makes the embeddings",
    "media_io_kwargs": "pictures are read here",
}


@dataclass(frozen=True)
class EncodeRequest:
    """One chat request.

    Attributes:
        chat: its messages and pictures.
        template: what the chat template is given beside the messages.
        trim: how it is reduced: ``method``, ``budget``, options; empty leaves it to the server.
        query: what relevance is measured against in place of the last question, or None.
        report: whether the reply is to say what was kept.
        stream: whether the reply comes in pieces.
        passed: all other fields, which go to the engine as they are.
    """

    chat: ChatPictures
    template: dict[str, Any]
    trim: dict[str, Any]
    query: str | None
    report: bool
    stream: bool
    passed: dict[str, Any]

    @classmethod
    def read(cls, body: Mapping[str, Any], limits: Limits, *, addresses: bool = False) -> EncodeRequest:
        """Read the body of a request.

        Raises:
            RequestError: a field is of another form than it should be, or is one that cannot be served.
        """
        for name, why in _REFUSED.items():
            if body.get(name) is not None:
                raise RequestError(f"{name!r} is not taken: {why}", param=name)
        trim = _trim(body.get("mm_processor_kwargs"))
        query, report = trim.pop("query", None), trim.pop("report", False)
        if query is not None and not isinstance(query, str):
            raise RequestError("mm_processor_kwargs.trim.query is no text", param="mm_processor_kwargs")
        stream = body.get("stream") or False
        for name, value in (("stream", stream), ("mm_processor_kwargs.trim.report", report)):
            if not isinstance(value, bool):
                raise RequestError(f"{name} is neither true nor false", param=name)
        if stream and report:
            raise RequestError("a report comes with a whole reply: leave 'stream' out", param="stream")
        extra = body.get("chat_template_kwargs") or {}
        if not isinstance(extra, dict):
            raise RequestError("chat_template_kwargs is no object", param="chat_template_kwargs")
        given = {name: body[name] for name in _TEMPLATE if body.get(name) is not None}
        return cls(
            chat=parse_messages(body.get("messages"), limits, addresses=addresses),
            template={"add_generation_prompt": True, **given, **extra},
            trim=trim,
            query=query,
            report=report,
            stream=stream,
            passed={name: value for name, value in body.items() if name not in _HERE},
        )


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
    return {
        **request.passed,
        "messages": [{"role": "user", "content": content}],
        "add_special_tokens": around.add_special_tokens,
    }


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _trim(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict) or set(given) - {"trim"}:
        raise RequestError(
            "mm_processor_kwargs takes 'trim' alone here: pictures are prepared as the checkpoint says",
            param="mm_processor_kwargs",
        )
    trim = given.get("trim", {})
    if not isinstance(trim, dict):
        raise RequestError("mm_processor_kwargs.trim is no object", param="mm_processor_kwargs")
    return dict(trim)
