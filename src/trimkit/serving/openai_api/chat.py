"""Chat messages as chat templates take them, and the pictures in them, apart."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from PIL import Image

from trimkit.errors import InputError
from trimkit.images import load_image
from trimkit.io.fetch import fetch, is_url
from trimkit.io.text import is_text
from trimkit.serving.openai_api.errors import RequestError
from trimkit.serving.openai_api.limits import Limits

__all__ = ["ChatPictures", "parse_messages"]

_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class ChatPictures:
    """The messages of a chat request.

    Attributes:
        turns: for ``apply_chat_template``: of every message its role, a list of ``{"type": "text", "text": ...}`` and
            ``{"type": "image"}``, and its other fields.
        pictures: what stands at each ``{"type": "image"}``, in order: the bytes of a file, or an http(s) address.
    """

    turns: list[dict[str, Any]]
    pictures: list[bytes | str]

    def decode(self, limits: Limits) -> list[Image.Image]:
        """The pictures, upright and RGB. Addresses are fetched: call it outside the event loop.

        Raises:
            RequestError: one is no picture, damaged or too large; the message says which.
        """
        decoded = []
        for number, given in enumerate(self.pictures):
            try:
                content = fetch(given, limits.body_bytes) if isinstance(given, str) else given
                decoded.append(load_image(content, limits.pixels))
            except InputError as error:
                raise RequestError(f"picture {number + 1}: {error}", param="messages") from None
        return decoded


def parse_messages(messages: Any, limits: Limits, *, addresses: bool = False) -> ChatPictures:
    """Read ``messages`` of a chat request; no picture is decoded yet.

    Args:
        messages: the field, of whatever type it is.
        limits: on the number of pictures.
        addresses: whether pictures may be named by http(s) addresses, which this server would then fetch.

    Raises:
        RequestError: something is of another form than OpenAI's, is no text and no picture, or there are too many pictures.
    """
    if not isinstance(messages, list) or not messages:
        raise RequestError("'messages' is no list with a message in it", param="messages")
    reader = _Reader(addresses)
    turns = [reader.turn(message, f"messages[{number}]") for number, message in enumerate(messages)]
    if len(reader.pictures) > limits.pictures:
        raise RequestError(
            f"{len(reader.pictures)} pictures are over the limit of {limits.pictures}: send fewer", param="messages"
        )
    return ChatPictures(turns, reader.pictures)


class _Reader:
    def __init__(self, addresses: bool) -> None:
        self._addresses = addresses
        self.pictures: list[bytes | str] = []

    def turn(self, message: Any, where: str) -> dict[str, Any]:
        if not isinstance(message, dict):
            raise RequestError(f"{where} is no object", param=where)
        role = message.get("role")
        if role not in _ROLES:
            raise RequestError(
                f"{where}.role is {_shown(role)}: give one of {', '.join(_ROLES)}", param=f"{where}.role"
            )
        content, inside = message.get("content"), f"{where}.content"
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if content is None and role == "assistant":
            content = []
        if not isinstance(content, list):
            raise RequestError(f"{inside} is neither text nor a list of parts", param=inside)
        parts = [self._part(part, f"{inside}[{number}]") for number, part in enumerate(content)]
        return {**message, "role": role, "content": parts}

    def _part(self, part: Any, where: str) -> dict[str, Any]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text = part.get("text")
            if not isinstance(text, str) or not is_text(text):
                raise RequestError(f"{where}.text is no text", param=where)
            return {"type": "text", "text": text}
        if kind == "image_url":
            self.pictures.append(self._picture(part.get("image_url"), f"{where}.image_url"))
            return {"type": "image"}
        raise RequestError(f"{where}.type is {_shown(kind)}: this server takes 'text' and 'image_url'", param=where)

    def _picture(self, given: Any, where: str) -> bytes | str:
        url = given.get("url") if isinstance(given, dict) else given
        if not isinstance(url, str):
            raise RequestError(f"{where} has no url", param=where)
        if is_url(url) and self._addresses:
            return url
        head, comma, data = url.partition(",")
        if not (head.lower().startswith("data:") and head.lower().endswith(";base64") and comma):
            remedy = "" if self._addresses else " (this server fetches no addresses)"
            raise RequestError(
                f"{where} is no 'data:image/...;base64,' address: send the picture so{remedy}", param=where
            )
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise RequestError(f"{where} is no base64: encode the picture again", param=where) from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
