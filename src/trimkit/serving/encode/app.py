"""The routes of the encoder in front of an engine, and OpenAI's error object for whatever goes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trimkit.serving.encode.encoder import PictureEncoder
from trimkit.serving.encode.front import Front
from trimkit.serving.encode.metrics import EncodeMetrics
from trimkit.serving.encode.upstream import Upstream
from trimkit.serving.server.errors import ApiError
from trimkit.serving.server.keys import check_key
from trimkit.serving.server.replies import Waiting
from trimkit.serving.server.settings import Limits, check_own_key

__all__ = ["create_app"]


def create_app(
    encoder: PictureEncoder,
    upstream: str,
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    upstream_key: str | None = None,
    remote_pictures: bool = False,
    transport: httpx.AsyncBaseTransport | None = None,
) -> FastAPI:
    """The ASGI application: ``/v1/chat/completions``, ``/v1/models``, ``/health``, ``/metrics``.

    Args:
        encoder: encodes the pictures.
        upstream: address of a vLLM that serves the checkpoint's language model with ``--enable-prompt-embeds``.
        limits: of requests; ``queue`` is how many may be under way, ``deadline`` how long the engine may say nothing.
        api_key: what clients have to send as a bearer token; None lets everybody in.
        upstream_key: what the engine wants.
        remote_pictures: whether pictures may be named by public http(s) addresses, which this server then fetches.
        transport: of httpx, in place of the network; for tests.

    Raises:
        ConfigError: ``upstream`` is no address, or no header can carry one of the keys.
    """
    check_own_key(api_key)
    limits = limits or Limits()
    waiting = Waiting(limits.queue)
    metrics = EncodeMetrics(lambda: waiting.count)
    engine = Upstream(upstream, api_key=upstream_key, limits=limits, metrics=metrics, transport=transport)
    front = Front(encoder, engine, limits, metrics, waiting, remote_pictures=remote_pictures)

    @contextlib.asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.close()
        front.close()

    app = FastAPI(title="trimkit encode-server", lifespan=running, docs_url=None, redoc_url=None, openapi_url=None)

    async def chat(request: Request) -> Response:
        check_key(request, api_key)
        return await front.chat(request)

    async def models(request: Request) -> Response:
        check_key(request, api_key)
        return await front.models()

    app.add_api_route("/v1/chat/completions", chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", models, methods=["GET"], response_model=None)
    app.add_api_route("/health", front.health, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", front.measured, methods=["GET"], response_model=None)
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(HTTPException, _told)
    return app


async def _told(_: Request, error: Exception) -> Response:
    """Whatever is refused, in OpenAI's form."""
    if isinstance(error, HTTPException):
        paths = "POST /v1/chat/completions, or GET /v1/models, /health, /metrics"
        error = ApiError(error.status_code, f"{error.detail}: {paths}")
    known = error if isinstance(error, ApiError) else ApiError(500, "the server failed")
    return JSONResponse(known.body, known.status, known.headers)
