"""The routes: chat completions, models, health, metrics; and OpenAI's error object for whatever goes wrong."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trimkit.serving.server.chat import Chat
from trimkit.serving.server.engine import Engine
from trimkit.serving.server.errors import ApiError
from trimkit.serving.server.keys import check_key
from trimkit.serving.server.metrics import Metrics
from trimkit.serving.server.recheck import Recheck
from trimkit.serving.server.schema import ChatRequest
from trimkit.serving.server.service import Service
from trimkit.version import __version__

__all__ = ["build_app"]

_DOCUMENTED = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": ChatRequest.model_json_schema(ref_template="#/components/schemas/ChatRequest/$defs/{model}")
            }
        },
    }
}


def build_app(service: Service, engine: Engine, metrics: Metrics, recheck: Recheck | None = None) -> FastAPI:
    """The ASGI application of one model; its engine runs as long as the application does.

    ``app.state.chat`` is the ``Chat`` behind it.
    """
    chat = Chat(service, engine, metrics, recheck)
    began = int(time.time())

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()
        chat.close()

    app = FastAPI(title="trimkit", version=__version__, lifespan=running, docs_url=None, redoc_url=None)
    app.state.chat = chat
    guarded = [Depends(_key_check(service.access.api_key))]

    @app.post("/v1/chat/completions", dependencies=guarded, openapi_extra=_DOCUMENTED)
    async def chat_completions(request: Request) -> Response:
        return await chat(request)

    @app.get("/v1/models", dependencies=guarded)
    async def models() -> dict[str, Any]:
        entry = {"id": service.access.model_name, "object": "model", "created": began, "owned_by": "trimkit"}
        return {"object": "list", "data": [entry]}

    _watch(app, chat, engine, metrics)
    _tell_errors(app)
    if service.access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
    return app


def _watch(app: FastAPI, chat: Chat, engine: Engine, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> Response:
        well = engine.alive and not chat.draining
        return JSONResponse({"status": "ok" if well else "stopping"}, 200 if well else 503)

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


def _key_check(key: str | None) -> Any:
    """A dependency that refuses requests without ``key``."""

    async def check(request: Request) -> None:
        check_key(request, key)

    return check


def _tell_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def told(request: Request, error: Exception) -> Response:
        known = error if isinstance(error, ApiError) else ApiError(500, "the server failed")
        return JSONResponse(known.body, known.status, known.headers)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        why = {404: "there is no such address here", 405: "this address does not take that method"}
        message = f"{why.get(status, 'refused')}: POST /v1/chat/completions, or GET /v1/models, /health, /metrics"
        return JSONResponse(ApiError(status, message).body, status)
