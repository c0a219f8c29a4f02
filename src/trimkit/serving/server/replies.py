"""The side of a reply that faces its client: events from the engine's thread, a deadline, and a client that may go away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from trimkit.serving.server.errors import ApiError
from trimkit.serving.server.jobs import Event, Failed, Finished, Job

__all__ = ["ClientGoneError", "Reply", "Waiting"]

Receive = Callable[[], Awaitable[Any]]


class ClientGoneError(Exception):
    """The client has closed the connection: nobody reads an answer."""


class Waiting:
    """How many requests are in the server: those beyond the limit are told to come again.

    Args:
        most: requests that are generated, and that wait.
    """

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0

    def enter(self) -> Callable[[], None]:
        """Take a place; returns what gives it back, once.

        Raises:
            ApiError: 429.
        """
        if self.count >= self.most:
            raise ApiError(
                429,
                f"{self.count} requests are being served or wait: try again later",
                code="queue_full",
                retry_after=1,
            )
        self.count += 1
        held = [True]

        def leave() -> None:
            if held.pop() if held else False:
                self.count -= 1

        return leave


class Reply:
    """Events of one job, in the event loop.

    Args:
        job: its ``emit`` is set here.
        receive: of the connection, whose body has been read: what comes now is that the client goes.
        ends: by ``time.monotonic``, when the reply has to be whole.
        done: called in the event loop with the last event, whether or not the client takes it.
    """

    def __init__(self, job: Job, receive: Receive, ends: float, done: Callable[[], None]) -> None:
        self._job, self._ends, self._done = job, ends, done
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._gone = asyncio.ensure_future(_until_gone(receive))
        job.emit = self._emit

    def _emit(self, event: Event) -> None:
        """Called by the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:  # the event loop has ended: nobody waits
            self._job.cancel()

    def _put(self, event: Event) -> None:
        self._events.put_nowait(event)
        if isinstance(event, (Finished, Failed)):
            self._done()

    async def events(self) -> AsyncIterator[Event]:
        """Every event up to ``Finished``.

        Raises:
            ApiError: it failed, or the deadline has passed (504).
            ClientGoneError: the client went away.
        """
        while True:
            event = await self._next()
            if isinstance(event, Failed):
                raise event.error
            yield event
            if isinstance(event, Finished):
                return

    async def _next(self) -> Event:
        if not self._events.empty() and not self._gone.done():
            return self._events.get_nowait()
        waiter = asyncio.ensure_future(self._events.get())
        try:
            left = max(self._ends - time.monotonic(), 0)
            await asyncio.wait({waiter, self._gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if self._gone.done():
                raise ClientGoneError
            if waiter.done():
                return waiter.result()
        finally:
            waiter.cancel()
        raise ApiError(
            504, "the reply was not ready within the server's deadline: ask for fewer tokens", code="timeout"
        )

    def close(self) -> None:
        """Give the job up, where it still runs, and its place in the server."""
        self._job.cancel()
        self._job.emit = _nobody  # else each holds the other, and the pictures, until the garbage collector comes by
        self._gone.cancel()
        self._done()


def _nobody(event: Event) -> None:
    """Nobody waits any more."""


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
