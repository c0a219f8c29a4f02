"""Reading bodies of requests within limits: so many bytes each, so many at one time, so many seconds."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect

from trimkit.serving.server.errors import ApiError
from trimkit.serving.server.replies import ClientGoneError
from trimkit.serving.server.settings import Limits

__all__ = ["Bodies"]

_DRAIN_SECONDS = 5.0


class Bodies:
    """Reads bodies, and knows how many bytes of them are held.

    Args:
        limits: of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.held = 0

    async def read(self, request: Any) -> bytes:
        """The body of a request; ``release`` it when it is not needed any more.

        Raises:
            ApiError: 408, 413, 429.
            ClientGoneError: it broke off.
        """
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                return await self._pieces(request)
        except TimeoutError:
            told = f"the body did not arrive within {self._limits.body_seconds:g} seconds: send it faster"
            raise ApiError(408, told) from None
        except ClientDisconnect:
            raise ClientGoneError from None

    def release(self, body: bytes) -> None:
        """Its bytes are not held any more."""
        self.held -= len(body)

    async def _pieces(self, request: Any) -> bytes:
        said = request.headers.get("content-length", "")
        most, size = self._limits.body_bytes, 0
        pieces: list[bytes] = []
        refused = _too_large(most) if said.isdecimal() and int(said[:20]) > most else None
        stream = request.stream()
        try:
            while refused is None and (piece := await anext(stream, None)) is not None:
                size += len(piece)
                self.held += len(piece)
                pieces.append(piece)
                if size > most:
                    refused = _too_large(most)
                elif self.held > self._limits.held_bytes:
                    refused = ApiError(429, "too many bodies are being read: try again later", retry_after=1)
            if refused is None:
                return b"".join(pieces)
        except BaseException:
            self.held -= size
            raise
        self.held -= size
        pieces.clear()
        await _drain(stream, 4 * most)
        raise refused


async def _drain(stream: Any, most: int) -> None:
    """Read on for a while without keeping anything: clients send all of a body before they look at the answer."""
    size = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for piece in stream:
                size += len(piece)
                if size > most:
                    return
    except (TimeoutError, ClientDisconnect):
        return


def _too_large(most: int) -> ApiError:
    told = f"the body is over the limit of {most / 2**20:g} MiB: send fewer or smaller pictures"
    return ApiError(413, told, code="request_too_large")
