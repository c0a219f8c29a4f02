"""One chat request from its body to the engine's reply: read, rendered, encoded, sent on, and relayed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from trimkit.core.types import Report
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import Method
from trimkit.serving.encode.encoder import EncodedPicture, PictureEncoder
from trimkit.serving.encode.metrics import EncodeMetrics
from trimkit.serving.encode.requests import EncodeRequest, upstream_body
from trimkit.serving.encode.upstream import Upstream
from trimkit.serving.report_json import report_object
from trimkit.serving.server.bodies import Bodies
from trimkit.serving.server.errors import ApiError, bad_request, error_of
from trimkit.serving.server.pictures import read_pictures
from trimkit.serving.server.readers import Readers
from trimkit.serving.server.replies import ClientGoneError, Waiting
from trimkit.serving.server.settings import Limits

__all__ = ["Front"]

_log = logging.getLogger(__name__)

Sent = tuple[dict[str, Any], list[EncodedPicture]]


class Front:
    """Answers requests.

    Args:
        encoder: encodes pictures, in a thread of its own.
        engine: answers what it made of them.
        limits: of requests.
        metrics: counts them.
        waiting: lets so many in at once.
        remote_pictures: whether pictures may be named by addresses.
    """

    def __init__(
        self,
        encoder: PictureEncoder,
        engine: Upstream,
        limits: Limits,
        metrics: EncodeMetrics,
        waiting: Waiting,
        *,
        remote_pictures: bool,
    ) -> None:
        self._encoder, self._engine, self._limits, self._metrics = encoder, engine, limits, metrics
        self._waiting, self._remote = waiting, remote_pictures
        self._bodies = Bodies(limits)
        self._encoding = ThreadPoolExecutor(1, "trimkit-encode")  # torch uses the cores within it
        self._readers = Readers(limits.body_seconds)

    def close(self) -> None:
        """End the threads; what waits for them fails."""
        self._encoding.shutdown(wait=False, cancel_futures=True)
        self._readers.close()

    async def health(self) -> Response:
        """Whether the engine is well; without it nothing can be answered."""
        well = await self._engine.healthy()
        return JSONResponse({"status": "ok" if well else "the engine does not answer"}, 200 if well else 503)

    async def measured(self) -> Response:
        """For Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self) -> Response:
        """What the engine lists."""
        return _relayed(await self._engine.get("/v1/models"))

    async def chat(self, request: Request) -> Response:
        """The reply to a chat request, whatever becomes of it."""
        response: Response | None = None
        leave: Callable[[], None] = _nothing
        try:
            body = await self._bodies.read(request)  # first: one that is sent slowly keeps no place from others
            try:
                leave = self._waiting.enter()
            except BaseException:
                self._bodies.release(body)
                raise
            response = await self._chat(body, leave)
        except ClientGoneError:
            response = Response(status_code=499)
        except Exception as error:
            known = error_of(error)
            if known.status >= 500 and not isinstance(error, ApiError):
                _log.error("a request failed (%s)", type(error).__name__, exc_info=error)
            response = JSONResponse(known.body, known.status, known.headers)
        finally:
            if not isinstance(response, StreamingResponse):  # a stream leaves when it is over
                leave()
        self._metrics.requests.labels(str(response.status_code)).inc()
        return response

    async def _chat(self, body: bytes, leave: Callable[[], None]) -> Response:
        release = partial(self._bodies.release, body)
        ends = time.monotonic() + self._limits.deadline
        asked, method, images = await self._readers.read(partial(self._read, body), ends, release, _nothing)
        loop = asyncio.get_running_loop()
        work = partial(self._encode, asked, method, images, time.monotonic())
        sent, pictures = await loop.run_in_executor(self._encoding, work)
        counts = {
            "x-trimkit-image-tokens-before": str(sum(picture.before for picture in pictures)),
            "x-trimkit-image-tokens-after": str(sum(picture.after for picture in pictures)),
        }
        if asked.stream:
            return await self._streamed(sent, counts, leave)
        reply = await self._engine.post(sent)
        if not asked.trim.report or reply.status_code != 200:
            return _relayed(reply, counts)
        return JSONResponse({**reply.json(), "trim": _report(method, pictures)}, headers=counts)

    def _read(self, body: bytes, until: float | None) -> tuple[EncodeRequest, Method, list[Any]]:
        """In a reader's thread: the request, its method, and its pictures as RGB images."""
        asked = EncodeRequest.read(body)
        try:
            method = self._encoder.method_for(asked.trim)
        except (ConfigError, TypeError, ValueError, OverflowError) as error:
            raise bad_request(" ".join(str(error).split())[:500], "mm_processor_kwargs.trim") from None
        return asked, method, read_pictures(asked.messages, self._limits, remote=self._remote, until=until)

    def _encode(self, asked: EncodeRequest, method: Method, images: list[Any], since: float) -> Sent:
        """In the encoder's thread: the chat rendered, its pictures encoded, and the engine's request made of both."""
        began = time.monotonic()
        self._metrics.waiting.observe(began - since)
        around = self._encoder.render(asked.messages, len(images))
        question = asked.trim.query if asked.trim.query is not None else around.question
        try:
            pictures = self._encoder.encode(images, question, method) if images else []
        except (ConfigError, UnsupportedError) as error:
            raise bad_request(str(error), "mm_processor_kwargs.trim") from None
        self._metrics.encoding.observe(time.monotonic() - began)
        self._metrics.count(pictures)
        return upstream_body(asked, around, pictures, self._encoder.frame), pictures

    async def _streamed(self, sent: dict[str, Any], headers: dict[str, str], leave: Callable[[], None]) -> Response:
        reply = await self._engine.open_stream(sent)
        if reply.status_code != 200:
            try:
                await reply.aread()
            except httpx.HTTPError:
                raise ApiError(502, "the engine broke off within an error: try again later") from None
            finally:
                await reply.aclose()
            return _relayed(reply)

        async def over() -> None:
            leave()
            await reply.aclose()  # the engine stops where its reader has gone

        return _Stream(self._engine.pieces(reply), headers, over)


class _Stream(StreamingResponse):
    """Events; ``over`` is awaited at the end, also where the client goes before the first of them."""

    def __init__(
        self, pieces: AsyncIterator[bytes], headers: dict[str, str], over: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(pieces, media_type="text/event-stream", headers=headers)
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._over()


def _nothing() -> None:
    """There is no place to give back."""


def _relayed(reply: httpx.Response, headers: dict[str, str] | None = None) -> Response:
    """The engine's reply as it is."""
    kind = reply.headers.get("content-type", "application/json")
    return Response(reply.content, reply.status_code, headers, media_type=kind)


def _report(method: Method, pictures: Sequence[EncodedPicture]) -> dict[str, Any]:
    """What was kept, as ``trimkit serve`` says it; stages are not timed apart here."""
    images = tuple(image for picture in pictures for image in picture.images)
    return report_object(Report(method.name, images) if images else None, [None] * len(images), timed=False)
