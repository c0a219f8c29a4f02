"""The server: OpenAI's chat API in front of a text-only engine."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from trimkit.errors import ConfigError, InputError, TrimkitError
from trimkit.serving.encode.encoder import EncodedPicture, PictureEncoder
from trimkit.serving.encode.metrics import Metrics
from trimkit.serving.encode.requests import EncodeRequest, upstream_body
from trimkit.serving.encode.upstream import Upstream
from trimkit.serving.openai_api.errors import RequestError, error_body
from trimkit.serving.openai_api.limits import Limits, read_body

__all__ = ["create_app"]


def create_app(
    encoder: PictureEncoder,
    upstream: str,
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    upstream_key: str | None = None,
    addresses: bool = False,
    transport: httpx.AsyncBaseTransport | None = None,
) -> FastAPI:
    """The ASGI application: ``/v1/chat/completions``, ``/v1/models``, ``/health``, ``/metrics``.

    Args:
        encoder: encodes the pictures.
        upstream: address of a vLLM that serves the checkpoint's language model with ``--enable-prompt-embeds``.
        limits: of requests; None takes the defaults.
        api_key: what clients have to send as a bearer token; None lets everybody in.
        upstream_key: what the engine wants.
        addresses: whether pictures may be named by http(s) addresses, which this server then fetches.
        transport: of httpx, in place of the network; for tests.

    Raises:
        ConfigError: ``upstream`` is no address.
    """
    limits = limits or Limits()
    metrics = Metrics()
    engine = Upstream(
        upstream,
        api_key=upstream_key,
        seconds=limits.seconds,
        connections=limits.waiting,
        metrics=metrics,
        transport=transport,
    )
    front = _Front(encoder, engine, limits, metrics, api_key, addresses)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await front.close()

    app = FastAPI(title="trimkit encode-server", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/v1/chat/completions", front.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", front.models, methods=["GET"], response_model=None)
    app.add_api_route("/health", front.health, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", front.metrics, methods=["GET"], response_model=None)
    app.add_exception_handler(HTTPException, _unknown)
    return app


class _Front:
    def __init__(
        self,
        encoder: PictureEncoder,
        engine: Upstream,
        limits: Limits,
        metrics: Metrics,
        api_key: str | None,
        addresses: bool,
    ) -> None:
        self._encoder, self._engine, self._limits, self._metrics = encoder, engine, limits, metrics
        self._api_key, self._addresses = api_key, addresses
        self._encoding = ThreadPoolExecutor(1, "trimkit-encode")  # torch uses the cores within it
        self._reading = ThreadPoolExecutor(2, "trimkit-read")
        self._under_way = 0

    async def close(self) -> None:
        await self._engine.close()
        self._encoding.shutdown(wait=False, cancel_futures=True)
        self._reading.shutdown(wait=False, cancel_futures=True)

    async def health(self) -> Response:
        if await self._engine.healthy():
            return JSONResponse({"status": "ok"})
        return _refusal(RequestError("the engine does not answer /health", 503))

    async def metrics(self) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, request: Request) -> Response:
        try:
            self._let_in(request)
            return _relayed(await self._engine.get("/v1/models"))
        except RequestError as error:
            return _refusal(error)

    async def chat(self, request: Request) -> Response:
        self._under_way += 1
        self._metrics.waiting.set(self._under_way)
        leave = _once(self._leave)
        try:
            response = await self._chat(request, leave)
        except RequestError as error:
            response = _refusal(error)
        except ClientDisconnect:  # nobody is there to read it
            response = _refusal(RequestError("the client has gone", 400))
        except TrimkitError as error:  # the request was in order, and the model was not
            response = _refusal(RequestError(str(error), 500))
        finally:
            if not isinstance(locals().get("response"), StreamingResponse):
                leave()
        self._metrics.requests.labels(str(response.status_code)).inc()
        return response

    async def _chat(self, request: Request, leave: Callable[[], None]) -> Response:
        self._let_in(request)
        if self._under_way > self._limits.waiting:
            raise RequestError("too many requests are under way: try again in a second", 429)
        body = await read_body(request.stream(), self._limits.body_bytes)
        asked = EncodeRequest.read(body, self._limits, addresses=self._addresses)
        try:
            method = self._encoder.method_for(asked.trim)
        except ConfigError as error:
            raise RequestError(str(error), param="mm_processor_kwargs") from None
        loop = asyncio.get_running_loop()
        images = await loop.run_in_executor(self._reading, asked.chat.decode, self._limits)
        work = partial(self._encode, asked, images, method, time.monotonic())
        sent, pictures = await loop.run_in_executor(self._encoding, work)
        counts = {
            "x-trimkit-image-tokens-before": str(sum(picture.before for picture in pictures)),
            "x-trimkit-image-tokens-after": str(sum(picture.after for picture in pictures)),
        }
        if asked.stream:
            return await self._streamed(sent, counts, leave)
        reply = await self._engine.post(sent)
        return _relayed(reply, counts, pictures if asked.report else None)

    def _encode(
        self, asked: EncodeRequest, images: list[Any], method: Any, since: float
    ) -> tuple[dict[str, Any], list[EncodedPicture]]:
        """In the encoder's thread: the chat rendered, its pictures encoded, and the engine's request made of both."""
        began = time.monotonic()
        self._metrics.wait.observe(began - since)
        around = self._encoder.render(asked.chat.turns, len(images), **asked.template)
        question = asked.query if asked.query is not None else around.question
        try:
            pictures = self._encoder.encode(images, question, method) if images else []
        except (ConfigError, InputError) as error:  # of what the request asks for
            raise RequestError(str(error), param="mm_processor_kwargs") from None
        self._metrics.seconds.observe(time.monotonic() - began)
        self._metrics.count(pictures)
        return upstream_body(asked, around, pictures, self._encoder.frame), pictures

    async def _streamed(self, sent: dict[str, Any], headers: dict[str, str], leave: Callable[[], None]) -> Response:
        reply = await self._engine.open_stream(sent)
        if reply.status_code != 200:
            try:
                await reply.aread()
            except httpx.HTTPError:
                raise RequestError("the engine broke off within an error", 502) from None
            finally:
                await reply.aclose()
            return _relayed(reply)

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in self._engine.pieces(reply):
                    yield piece
            finally:
                leave()

        return StreamingResponse(pieces(), media_type="text/event-stream", headers=headers)

    def _let_in(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._api_key is not None and not secrets.compare_digest(given.encode(), self._api_key.encode()):
            raise RequestError("the API key is missing or wrong: send 'Authorization: Bearer KEY'", 401)

    def _leave(self) -> None:
        self._under_way -= 1
        self._metrics.waiting.set(self._under_way)


def _once(action: Callable[[], None]) -> Callable[[], None]:
    """``action``, which is run by the first call alone."""
    left = [action]

    def run() -> None:
        while left:
            left.pop()()

    return run


def _refusal(error: RequestError) -> Response:
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error_body(error.message, error.status, error.param), error.status, headers)


def _relayed(
    reply: httpx.Response, headers: dict[str, str] | None = None, report: Sequence[EncodedPicture] | None = None
) -> Response:
    """The engine's reply, with what was kept of the pictures where that was asked for."""
    if report is not None and reply.status_code == 200:
        kept = [{"tokens_before": each.before, "tokens_after": each.after, "parts": each.report} for each in report]
        return JSONResponse({**reply.json(), "trimkit": {"images": kept}}, headers=headers)
    kind = reply.headers.get("content-type", "application/json")
    return Response(reply.content, reply.status_code, headers, media_type=kind)


async def _unknown(_: Request, error: Exception) -> Response:
    """An address or a verb that is not served, in OpenAI's form."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "internal error"
    return JSONResponse(error_body(f"{detail}: see /v1/chat/completions and /v1/models", status), status)
