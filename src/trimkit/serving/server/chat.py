"""``POST /v1/chat/completions``: from the connection to the engine and back, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trimkit.serving.report_json import report_object
from trimkit.serving.server.answers import Completion, event
from trimkit.serving.server.bodies import Bodies
from trimkit.serving.server.engine import Engine
from trimkit.serving.server.errors import ApiError, error_of
from trimkit.serving.server.jobs import Delta, Event, Finished, Started
from trimkit.serving.server.memory import forget_frames, give_back_memory
from trimkit.serving.server.metrics import Metrics
from trimkit.serving.server.readers import Readers
from trimkit.serving.server.recheck import Recheck
from trimkit.serving.server.replies import ClientGoneError, Reply, Waiting
from trimkit.serving.server.service import Asked, Service

__all__ = ["Chat"]

_CLIENT_GONE = 499
_GIVE_BACK = 32  # requests after which free memory goes back to the system

_log = logging.getLogger(__name__)


class Chat:
    """Answers chat requests.

    Args:
        service: makes jobs of requests.
        engine: runs them.
        metrics: counts.
        recheck: asks some replies again, or None.
    """

    def __init__(self, service: Service, engine: Engine, metrics: Metrics, recheck: Recheck | None = None) -> None:
        self._service, self._engine, self._metrics, self._recheck = service, engine, metrics, recheck
        self._limits = service.limits
        self._bodies = Bodies(service.limits)
        self._waiting = Waiting(service.limits.batch + service.limits.queue)
        self._readers = Readers(self._limits.body_seconds)
        self.draining = False
        self._answered = 0
        metrics.watch("requests_inside", "Requests that are read, wait or are generated.", lambda: self._waiting.count)

    def close(self) -> None:
        """Let the readers' threads go."""
        self._readers.close()

    async def __call__(self, request: Request) -> Response:
        """The answer to one request; what goes wrong before it begins is a status of its own."""
        try:
            return await self._answer(request)
        except ClientGoneError as error:
            forget_frames(error)
            self._count(_CLIENT_GONE)
            return Response(status_code=_CLIENT_GONE)
        except Exception as error:
            told = error_of(error)
            if not isinstance(error, ApiError) and told.status >= 500:
                _log.error("a request failed: %s", error, exc_info=error)
            forget_frames(error)
            forget_frames(told)
            self._count(told.status)
            return JSONResponse(told.body, told.status, told.headers)

    async def _answer(self, request: Request) -> Response:
        body = await self._bodies.read(request)
        try:
            self._refuse_when_stopping()
            leave = self._waiting.enter()
        except BaseException:
            self._bodies.release(body)
            raise
        ends = time.monotonic() + self._limits.deadline
        read = partial(self._service.read, body)
        asked = await self._readers.read(read, ends, partial(self._bodies.release, body), leave)
        self._refuse_when_stopping(leave)
        reply = Reply(asked.job, request.receive, ends, leave)
        try:
            self._engine.submit(asked.job)
            return await self._begin(asked, reply)
        except BaseException:
            reply.close()
            raise

    async def _begin(self, asked: Asked, reply: Reply) -> Response:
        events = reply.events()
        started = await anext(events)
        if not isinstance(started, Started):
            raise TypeError(f"the engine began with {type(started).__name__}")
        self._metrics.first_token.observe(time.monotonic() - asked.job.since)
        trim = None
        if asked.sizes is not None or started.fallback:
            trim = await self._report(asked, started)
        completion = Completion(self._service.access.model_name, started, trim)
        if asked.stream:
            return _Stream(self._chunks(asked, completion, events), reply, self._limits.write_seconds, self._count)
        text, end = "", None
        async for each in events:
            if isinstance(each, Delta):
                text += each.text
            elif isinstance(each, Finished):
                end = each
        reply.close()
        if end is None:
            raise RuntimeError("the engine gave no end")
        self._finished(asked, end)
        self._count(200)
        return JSONResponse(completion.whole(text, end))

    async def _report(self, asked: Asked, started: Started) -> dict[str, Any] | None:
        count = len(started.report.images) if started.report else 0
        boxes: list[Any] = [None] * count
        if asked.sizes is not None and len(asked.sizes) == count:
            boxes = await self._readers.run(self._service.boxes, asked.sizes, started.report)
        return report_object(started.report, boxes, fallback=started.fallback)

    async def _chunks(self, asked: Asked, completion: Completion, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
        """The events of a stream, up to ``[DONE]``; nothing of the kind behind a failure, which the caller tells."""
        yield event(completion.first())
        async for each in events:
            if isinstance(each, Delta):
                yield event(completion.piece(each.text))
            elif isinstance(each, Finished):
                self._finished(asked, each)
                yield event(completion.last(each))
                if asked.count:
                    yield event(completion.counted(each))
                yield event("[DONE]")

    def _finished(self, asked: Asked, end: Finished) -> None:
        self._metrics.generated_tokens.inc(end.tokens)
        self._metrics.duration.observe(time.monotonic() - asked.job.since)
        if self._recheck is not None:
            self._recheck.offer(asked.job)

    def _refuse_when_stopping(self, leave: Callable[[], None] | None = None) -> None:
        if self.draining:
            if leave is not None:
                leave()
            raise ApiError(503, "the server is being stopped: try another, or again later", retry_after=10)

    def _count(self, status: int) -> None:
        self._metrics.requests.labels(str(status)).inc()
        self._answered += 1
        if self._answered % _GIVE_BACK == 0:
            self._readers.submit(give_back_memory)


class _Stream(Response):
    """Server-sent events. A client that takes none for too long, or goes away, ends the work behind them.

    Args:
        chunks: the events.
        reply: what is closed in the end.
        seconds: that one piece may take to be sent.
        count: is told the status.
    """

    def __init__(
        self, chunks: AsyncIterator[bytes], reply: Reply, seconds: float, count: Callable[[int], None]
    ) -> None:
        super().__init__(
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}, media_type="text/event-stream"
        )
        del self.headers["content-length"]
        self._chunks, self._reply, self._seconds, self._count = chunks, reply, seconds, count

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send them all."""
        status = _CLIENT_GONE
        try:
            await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            status = await self._send_chunks(send)
            await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except (ClientGoneError, TimeoutError) as error:
            forget_frames(error)
            status = _CLIENT_GONE  # nobody reads: an end that is not sent has the connection closed
        finally:
            self._reply.close()
            self._count(status)

    async def _send_chunks(self, send: Any) -> int:
        try:
            async for chunk in self._chunks:
                await self._send(send, {"type": "http.response.body", "body": chunk, "more_body": True})
        except (ClientGoneError, TimeoutError):
            raise
        except Exception as error:
            told = error_of(error)
            if not isinstance(error, ApiError):
                _log.error("a stream failed: %s", error, exc_info=error)
            forget_frames(error)
            forget_frames(told)
            await self._send(send, {"type": "http.response.body", "body": event(told.body), "more_body": True})
            return told.status
        return 200

    async def _send(self, send: Any, message: dict[str, Any]) -> None:
        await asyncio.wait_for(send(message), self._seconds)
