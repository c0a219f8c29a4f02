"""What a request may bring, and the reading of its body within that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from typing import Any

from trimkit.errors import ConfigError
from trimkit.io.text import parse_json
from trimkit.serving.openai_api.errors import RequestError

__all__ = ["Limits", "read_body"]


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        body_bytes: of a request; more is answered 413.
        pictures: of a request.
        pixels: of a picture, read from its header before anything is decoded.
        waiting: requests that are worked on or wait; one more is answered 429.
        seconds: until a request without a reply is given up.

    Raises:
        ConfigError: one of them is below 1.
    """

    body_bytes: int = 32 * 2**20
    pictures: int = 16
    pixels: int = 40_000_000
    waiting: int = 128
    seconds: float = 300.0

    def __post_init__(self) -> None:
        """Refuse what lets nothing through."""
        for field in fields(self):
            if not getattr(self, field.name) >= 1:
                raise ConfigError(f"{field.name} {getattr(self, field.name)} lets nothing through: give 1 or more")


async def read_body(chunks: AsyncIterator[bytes], limit: int) -> dict[str, Any]:
    """The JSON object that a request's body is; no more than ``limit`` bytes are ever held.

    Raises:
        RequestError: it is larger (413), no JSON, no object, or nested too deep.
    """
    pieces: list[bytes] = []
    size = 0
    async for piece in chunks:
        size += len(piece)
        if size > limit:
            raise RequestError(
                f"the request is over the limit of {limit / 2**20:g} MiB: send fewer or smaller pictures", 413
            )
        pieces.append(piece)
    try:
        body = parse_json(b"".join(pieces).decode())
    except ValueError as error:
        raise RequestError(f"the body is no JSON ({str(error).splitlines()[0][:120]}): send a JSON object") from None
    if not isinstance(body, dict):
        raise RequestError("the body is no JSON object: send one with 'messages'")
    return body
