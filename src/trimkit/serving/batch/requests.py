"""A row as the body of an OpenAI chat request, and what its reply says."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimkit.errors import ConfigError, InputError
from trimkit.io.reading import check_regular, read_bytes
from trimkit.io.text import is_text
from trimkit.serving.batch.dataset import Row

__all__ = ["RequestSettings", "asked_of", "chat_request", "check_pictures", "reply_of"]

_MAX_PICTURE = 64 * 2**20
_MEDIA_TYPES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)


@dataclass(frozen=True)
class RequestSettings:
    """What all requests of a batch share.

    Attributes:
        model: the name that the servers know the model by.
        max_tokens: length limit of a reply.
        temperature: 0 is greedy.
        trim: how image tokens are reduced (``method``, ``budget``, the method's options); empty leaves it to the servers.
        extra: other fields of the request's body, as they are.

    Raises:
        ConfigError: ``model`` is no text.
    """

    model: str
    max_tokens: int = 256
    temperature: float = 0.0
    trim: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no request could say."""
        if not is_text(self.model):
            raise ConfigError(f"model {self.model!r} is not UTF-8 text: give the name that the server lists")

    def to_plain(self) -> dict[str, Any]:
        """JSON-like, so that a later run can tell whether it has the same."""
        return {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "trim": dict(self.trim),
            "extra": dict(self.extra),
        }


def chat_request(row: Row, settings: RequestSettings) -> dict[str, Any]:
    """The body of a chat request. Picture files are read here, and sent as they are, in base64.

    Raises:
        InputError: a picture file cannot be read.
    """
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": _address(each)}} for each in row.images]
    content.append({"type": "text", "text": row.question})
    body: dict[str, Any] = {
        **settings.extra,
        "model": settings.model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
    }
    if settings.trim:
        body["mm_processor_kwargs"] = {**body.get("mm_processor_kwargs", {}), "trim": dict(settings.trim)}
    return body


def asked_of(row: Row, settings: RequestSettings) -> str:
    """Sixteen hex digits of what is asked: question, names or content of the pictures, and settings."""
    pictures = [hashlib.blake2b(each).hexdigest() if isinstance(each, bytes) else str(each) for each in row.images]
    said = json.dumps([row.question, pictures, settings.to_plain()], sort_keys=True)
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def check_pictures(row: Row) -> None:
    """Look at a row's picture files without reading them.

    Raises:
        InputError: one is not there, is no regular file, or is too large.
    """
    for picture in row.images:
        if isinstance(picture, Path):
            check_regular(picture, _MAX_PICTURE)


def reply_of(answer: Any) -> dict[str, Any]:
    """What is kept of a chat completion: ``answer``, ``finish_reason``, ``usage``.

    Raises:
        InputError: it is no chat completion.
    """
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str):
            raise TypeError
        return {"answer": text, "finish_reason": choice.get("finish_reason"), "usage": answer.get("usage")}
    except (TypeError, KeyError, IndexError, AttributeError):
        raise InputError("the server's reply is no chat completion") from None


def _address(picture: Path | str | bytes) -> str:
    if isinstance(picture, str):
        return picture
    content = read_bytes(picture, _MAX_PICTURE, what="picture") if isinstance(picture, Path) else picture
    return f"data:{_media_type(content)};base64,{base64.b64encode(content).decode()}"


def _media_type(content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((name for start, name in _MEDIA_TYPES if content.startswith(start)), "application/octet-stream")
