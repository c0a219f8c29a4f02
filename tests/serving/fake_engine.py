"""A stand-in for a text-only vLLM: takes apart what it is sent, refuses what vLLM would, and replies as it is told."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import torch
from torch import Tensor

DONE = b"data: [DONE]\n\n"


@dataclass
class Sent:
    """One request as the engine reads it: the text, with a mark where embeddings stand, and these."""

    text: str
    embeddings: list[Tensor]
    body: dict[str, Any]


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


class _Stream(httpx.AsyncByteStream):
    def __init__(self, pieces: list[bytes], breaks: bool) -> None:
        self._pieces, self._breaks = pieces, breaks
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._breaks:
            raise httpx.ReadError("the engine was killed")

    async def aclose(self) -> None:
        self.closed = True


class FakeEngine(httpx.AsyncBaseTransport):
    """``width``: of the language model. ``reply``: in place of the usual one, which None stands for."""

    def __init__(self, width: int = 256) -> None:
        self.width = width
        self.sent: list[Sent] = []
        self.pieces = [event("a"), event("b"), DONE]
        self.breaks = False
        self.reply: Callable[[Sent], httpx.Response | None] | None = None
        self.streams: list[_Stream] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health":
            return httpx.Response(200)
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"object": "list", "data": [{"id": "m"}]})
        assert request.url.path == "/v1/chat/completions"
        sent = self._read(json.loads(await request.aread()))
        self.sent.append(sent)
        told = None if self.reply is None else self.reply(sent)
        if told is not None:
            return told
        if sent.body.get("stream"):
            self.streams.append(_Stream(self.pieces, self.breaks))
            return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=self.streams[-1])
        message = {"role": "assistant", "content": sent.text}
        return httpx.Response(200, json={"choices": [{"message": message, "finish_reason": "stop"}]})

    def _read(self, body: dict[str, Any]) -> Sent:
        (message,) = body["messages"]
        assert message["role"] == "user"
        text, embeddings = "", []
        for part in message["content"]:
            if part["type"] == "text":
                assert set(part) == {"type", "text"}
                text += part["text"]
                continue
            assert set(part) == {"type", "data"}
            assert part["type"] == "prompt_embeds"
            content = base64.b64decode(part["data"], validate=True)
            tensor = torch.load(io.BytesIO(content), weights_only=True)
            assert tensor.ndim == 2
            assert tensor.shape[1] == self.width
            assert bool(torch.isfinite(tensor).all())
            assert len(content) < tensor.numel() * tensor.element_size() + 4096  # no storage behind a view
            embeddings.append(tensor)
            text += "<embeds>"
        return Sent(text, embeddings, body)
