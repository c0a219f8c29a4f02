"""The engine behind the encoder: requests go to it, its replies come back as they are, and a broken stream says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx

from trimkit.errors import ConfigError
from trimkit.io.addresses import is_sendable_key, is_server_address
from trimkit.serving.encode.metrics import EncodeMetrics
from trimkit.serving.http_client import opened_client
from trimkit.serving.server.answers import event
from trimkit.serving.server.errors import ApiError
from trimkit.serving.server.settings import Limits

__all__ = ["Upstream", "check_upstream"]

_DONE = b"data: [DONE]"
_ASIDE = 8
_KEPT_SECONDS = 2.0  # below the 5 after which vLLM closes a connection that nothing comes by
_CUT_OFF = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.CloseError)


def check_upstream(url: str, api_key: str | None) -> None:
    """Look at the engine's address and key; nothing is sent.

    Raises:
        ConfigError: ``url`` is no http(s) address, or no header can carry the key.
    """
    if not is_server_address(url):
        raise ConfigError(f"upstream {url!r} is no address: give one such as http://localhost:8001")
    if not is_sendable_key(api_key):
        raise ConfigError("the upstream's key holds what no header can carry: give it in plain letters, without spaces")


class Upstream:
    """One engine; its connections are closed by ``close``.

    Args:
        url: such as ``http://localhost:8001``; one that ends in ``/v1`` is the same.
        api_key: the engine's, or None.
        limits: ``deadline`` seconds until a reply, or the next piece of one, counts as none; ``queue`` connections at once.
        metrics: counts its failures.
        transport: of httpx, in place of the network; for tests.

    Raises:
        ConfigError: ``url`` is no http(s) address, or no header can carry the key.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        limits: Limits,
        metrics: EncodeMetrics,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        check_upstream(url, api_key)
        self._metrics = metrics
        self._client = opened_client(
            [url],
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(limits.deadline, connect=min(limits.deadline, 10.0)),
            # More than are let in at once, so that /health and /v1/models need not wait for replies to end.
            limits=httpx.Limits(max_connections=limits.queue + _ASIDE, keepalive_expiry=_KEPT_SECONDS),
            transport=transport,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def healthy(self) -> bool:
        """Whether the engine says that it is."""
        try:
            return (await self._client.get("/health", timeout=5.0)).status_code == 200
        except httpx.HTTPError:
            return False

    async def get(self, path: str) -> httpx.Response:
        """What the engine answers at ``path``.

        Raises:
            ApiError: it does not answer.
        """
        try:
            return await self._client.get(path)
        except httpx.HTTPError as error:
            raise self._gone(error) from None

    async def post(self, body: dict[str, Any]) -> httpx.Response:
        """The whole reply to a chat request, whatever its status.

        Raises:
            ApiError: the engine does not answer.
        """
        reply = await self._begun(body)
        try:
            await reply.aread()
        except httpx.HTTPError as error:
            raise self._gone(error) from None
        finally:
            await reply.aclose()
        return reply

    async def open_stream(self, body: dict[str, Any]) -> httpx.Response:
        """The beginning of a reply that comes in pieces; ``pieces`` goes on with it, and closes it.

        Raises:
            ApiError: the engine does not answer.
        """
        return await self._begun(body)

    async def _begun(self, body: dict[str, Any]) -> httpx.Response:
        """A reply whose status is there. A connection that is cut before it is tried once more: it may have been an old one."""
        for last in (False, True):
            request = self._client.build_request("POST", "/v1/chat/completions", json=body)
            try:
                return await self._client.send(request, stream=True)
            except httpx.HTTPError as error:
                if last or not isinstance(error, _CUT_OFF):
                    raise self._gone(error) from None
        raise RuntimeError("the loop above returns or raises")

    async def pieces(self, reply: httpx.Response) -> AsyncIterator[bytes]:
        """The events of a stream as they come; one that ends without ``[DONE]`` ends with an error event."""
        whole, rest, cause = False, b"", "it ended early"
        try:
            async for piece in reply.aiter_raw():
                rest = (rest + piece)[-len(_DONE) - 8 :]
                whole = whole or _DONE in rest
                yield piece
        except httpx.HTTPError as error:
            cause = type(error).__name__
        finally:  # also where the client has gone: the engine then stops
            await reply.aclose()
        if not whole:
            self._metrics.upstream.labels("stream").inc()
            yield b"\n\n" + event(ApiError(502, f"the engine broke off within its reply ({cause}): ask again").body)

    def _gone(self, error: httpx.HTTPError) -> ApiError:
        self._metrics.upstream.labels("request").inc()
        late = isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)
        told = f"the engine does not answer ({type(error).__name__}): try again later"
        return ApiError(504, told) if late else ApiError(503, told, retry_after=5)
