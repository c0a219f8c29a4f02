"""``"trim": {"report": true}`` with vLLM: what was kept comes with the response, as ``trimkit serve`` gives it.

vLLM's responses have no room for it, and its servers take middleware: ``--middleware
trimkit.serving.vllm.reports.ReportMiddleware``, which ``trimkit serve`` adds. It gives a request that wants a report a number,
which travels with the settings. The engine leaves what it keeps under that number. To every cache a picture with a number is
one of its own, so that its tokens are always chosen anew.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from trimkit.core.recent import Recent
from trimkit.core.types import Report
from trimkit.io.text import parse_json
from trimkit.serving.report_json import report_of
from trimkit.serving.vllm.engine_reports import new_number, take_reports

__all__ = ["ReportMiddleware", "expect"]

Boxes = Callable[[Report], Sequence[Any]]
Message = dict[str, Any]

_PATH = "/chat/completions"
_EVENT = b"data: "
_expected: Recent[str, Boxes] = Recent(256)


def expect(number: str, boxes: Boxes) -> None:
    """The request with this number is on its way to the engine; ``boxes`` tells which part of its pictures a model sees."""
    _expected.put(number, boxes)


class ReportMiddleware:
    """ASGI middleware of vLLM's server.

    Args:
        app: what answers.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As the application does it; the response to a request that wants a report has one."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith(_PATH):
            await self._app(scope, receive, send)
            return
        messages, body = await _body(receive)
        changed, number = numbered(body) if b'"report"' in body else (body, None)
        if number is None:
            await self._app(scope, _replay(messages, receive), send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        scope = {**scope, "headers": [*headers, (b"content-length", str(len(changed)).encode())]}
        answer = _Answer(number, send)
        await self._app(scope, _replay([{"type": "http.request", "body": changed}], receive), answer.send)


class _Answer:
    """Sends a response on, with the report in it: in the object of a whole one, in the first event of a stream."""

    def __init__(self, number: str, send: Any) -> None:
        self._number, self._send = number, send
        self._start: Message | None = None
        self._held, self._stream, self._passing = b"", False, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            self._stream = kind.startswith(b"text/event-stream")
            self._passing = message["status"] != 200
            self._start = message
            if self._passing or self._stream:
                await self._send(message)
            return
        if self._passing or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._held += message.get("body", b"")
        more = message.get("more_body", False)
        if self._stream and (b"\n\n" in self._held or not more):
            self._passing = True
            first, between, rest = self._held.partition(b"\n\n")
            if first.startswith(_EVENT):
                first = _EVENT + await self._with_report(first.removeprefix(_EVENT))
            await self._send({**message, "body": first + between + rest})
        elif not self._stream and not more:
            await self._send_whole(message)

    async def _send_whole(self, message: Message) -> None:
        if self._start is None:
            raise RuntimeError("a body came before its head")
        content = await self._with_report(self._held)
        headers = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
        await self._send({**self._start, "headers": [*headers, (b"content-length", str(len(content)).encode())]})
        await self._send({**message, "body": content})

    async def _with_report(self, content: bytes) -> bytes:
        """A JSON object with ``trim``; what is no object stays as it is."""
        try:
            found = json.loads(content)
        except ValueError:
            return content
        if not isinstance(found, dict):
            return content
        trim = await asyncio.to_thread(report_for, self._number)
        return json.dumps({**found, "trim": trim}, ensure_ascii=False).encode()


def numbered(body: bytes) -> tuple[bytes, str | None]:
    """A request's body with a number in the place of ``"report": true``, and the number; None where there is no such thing."""
    try:
        content = parse_json(body.decode())
        trim = content["mm_processor_kwargs"]["trim"]
        wanted = trim["report"] is True
    except (ValueError, RecursionError, KeyError, TypeError):
        return body, None
    if not wanted:
        return body, None
    trim["report"] = new_number()
    return json.dumps(content).encode(), trim["report"]


def report_for(number: str) -> dict[str, Any]:
    """The object ``trim`` of a response."""
    said = take_reports(number)
    images = [image for picture in said for image in picture["images"]]
    found = {
        "method": said[0]["method"] if said else None,
        "image_tokens_before": sum(image["tokens_before"] for image in images),
        "image_tokens": sum(image["tokens_after"] for image in images),
        "fallback": any(picture["fallback"] for picture in said),
        "images": images,
    }
    boxes = _expected.get(number)
    if boxes is not None and images:
        for image, box in zip(images, boxes(report_of(found)), strict=True):
            image["box"] = None if box is None else [round(float(side), 5) for side in box]
    return found


async def _body(receive: Any) -> tuple[list[Message], bytes]:
    """All messages up to the end of the body, and the body."""
    messages: list[Message] = []
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request" or not message.get("more_body", False):
            return messages, b"".join(each.get("body", b"") for each in messages)


def _replay(messages: list[Message], receive: Any) -> Any:
    """The messages again, then what comes."""
    left = iter(messages)

    async def again() -> Message:
        found = next(left, None)
        return await receive() if found is None else found

    return again
