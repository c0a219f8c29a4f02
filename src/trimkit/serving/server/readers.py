"""Threads that read requests: a few that decode what they are given, and others that wait for pictures from the web.

A slow host holds up nobody who sends no address. What a request holds, its body and its place, is given back when its thread
is done, not when its client has been told that it took too long: else memory would grow behind the limits' back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from trimkit.serving.server.errors import ApiError

__all__ = ["Readers", "WebPicturesError"]

_DECODING = 2
_FETCHING = 8

T = TypeVar("T")


class WebPicturesError(Exception):
    """The request names pictures on the web, and is being read where nobody may wait for them."""


class Readers:
    """Reads requests in threads.

    Args:
        seconds: that all pictures of one request may take to be fetched.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._decoding = ThreadPoolExecutor(_DECODING, "trimkit-reader")
        self._fetching = ThreadPoolExecutor(_FETCHING, "trimkit-fetcher")

    def close(self) -> None:
        """Let the threads go; what waits for them fails."""
        for pool in (self._decoding, self._fetching):
            pool.shutdown(wait=False, cancel_futures=True)

    async def read(
        self, work: Callable[[float | None], T], ends: float, release: Callable[[], None], leave: Callable[[], None]
    ) -> T:
        """What ``work`` gives.

        Args:
            work: is given the time by which pictures have to be fetched, or None where none may be; it then raises
                ``WebPicturesError``, and is called again.
            ends: by ``time.monotonic``, when it has to be done.
            release: called in the event loop when no thread works on it any more.
            leave: the same, where it failed.

        Raises:
            ApiError: 504, or 503 where the server stops; and whatever ``work`` raises.
        """
        pool = self._decoding
        until: float | None = None
        while True:
            try:
                future = pool.submit(work, until)
            except RuntimeError:  # the threads have gone
                release()
                leave()
                raise ApiError(
                    503, "the server is being stopped: try another, or again later", retry_after=10
                ) from None
            try:
                found = await _within(asyncio.wrap_future(future), ends)
            except WebPicturesError:
                pool, until = self._fetching, min(ends, time.monotonic() + self._seconds)
            except BaseException:
                _then(future, release, leave)
                raise
            else:
                release()
                return found

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """Something short beside reading."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, work, *given)

    def submit(self, work: Callable[[], Any]) -> None:
        """Something that nobody waits for; nothing where the threads have gone."""
        with contextlib.suppress(RuntimeError):
            self._decoding.submit(work)


async def _within(work: asyncio.Future[T], ends: float) -> T:
    try:
        return await asyncio.wait_for(work, max(ends - time.monotonic(), 0.001))
    except TimeoutError:
        raise ApiError(504, "the request waited longer than the server's deadline", code="timeout") from None


def _then(future: Future[Any], *calls: Callable[[], None]) -> None:
    """Call them in this event loop when the thread is done."""
    loop = asyncio.get_running_loop()

    def told(_: Future[Any]) -> None:
        for call in calls:
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(call)

    future.add_done_callback(told)
