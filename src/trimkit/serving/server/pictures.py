"""Pictures of a request: base64 data URLs and, where it is allowed, addresses on the web; decoded within limits."""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Sequence
from typing import Any

from trimkit.errors import InputError
from trimkit.images import decode_image
from trimkit.io.fetch import is_url
from trimkit.serving.server.errors import bad_request
from trimkit.serving.server.messages import ImagePart, Message
from trimkit.serving.server.readers import WebPicturesError
from trimkit.serving.server.remote import fetch_public
from trimkit.serving.server.settings import Limits

__all__ = ["picture_urls", "read_pictures"]

_HEAD = re.compile(r"data:(?:image/[\w.+-]{1,40}|application/octet-stream)?(?:;[\w=.+-]{1,60}){0,4};base64,", re.ASCII)


def picture_urls(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Where every picture of a conversation stands in the request, and its address; in order."""
    return [
        (f"messages.{i}.content.{j}.image_url", part.url)
        for i, message in enumerate(messages)
        if not isinstance(message.content, str)
        for j, part in enumerate(message.content)
        if isinstance(part, ImagePart)
    ]


def read_pictures(
    messages: Sequence[Message], limits: Limits, *, remote: bool, until: float | None = None
) -> list[Any]:
    """All pictures as upright RGB images of PIL. Those from the web together are as large as a body may be.

    Args:
        messages: of the request.
        limits: of the server.
        remote: whether pictures may be on the web.
        until: by ``time.monotonic``, when those have to be there; None where none may be waited for.

    Raises:
        ApiError: a 400 that names the picture.
        WebPicturesError: there are such, and ``until`` is None.
    """
    urls = picture_urls(messages)
    if len(urls) > limits.pictures:
        raise bad_request(
            f"the request has {len(urls)} pictures, over the limit of {limits.pictures}: send fewer", "messages"
        )
    if not remote:
        for where, url in urls:
            if is_url(url):
                raise bad_request(
                    "this server fetches no pictures from the web: send a data URL (data:image/png;base64,...)", where
                )
    elif until is None and any(is_url(url) for _, url in urls):
        raise WebPicturesError
    pictures, left = [], limits.body_bytes
    for where, url in urls:
        picture, size = _read(where, url, limits, left, until or 0.0)
        pictures.append(picture)
        left -= size
    return pictures


def _read(where: str, url: str, limits: Limits, left: int, until: float) -> tuple[Any, int]:
    """A picture, and how many bytes of it came from the web."""
    try:
        fetched = is_url(url)
        data = fetch_public(url, left, until - time.monotonic()) if fetched else _from_data_url(url)
        return decode_image(data, "the picture", limits.pixels), len(data) if fetched else 0
    except InputError as error:
        raise bad_request(str(error), where) from None


def _from_data_url(url: str) -> bytes:
    head = _HEAD.match(url)
    if head is None:
        raise InputError(
            f"the picture's address begins {url[:40]!r}: send a data URL with base64 (data:image/png;base64,...)"
        )
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"the picture is not base64 ({error}): encode the whole file") from None
