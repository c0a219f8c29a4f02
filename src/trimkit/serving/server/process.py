"""The server as a process: load, warm up, say where it is, serve until it is told to stop, and stop in good order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from trimkit.core.confidence import Fallback
from trimkit.errors import ConfigError
from trimkit.methods import Method
from trimkit.serving.server.app import build_app
from trimkit.serving.server.chat import Chat
from trimkit.serving.server.engine import Engine
from trimkit.serving.server.memory import settle_memory
from trimkit.serving.server.metrics import Metrics
from trimkit.serving.server.recheck import Recheck, Watch
from trimkit.serving.server.service import Service
from trimkit.serving.server.settings import Access, Limits
from trimkit.serving.server.warm_up import warm_up

__all__ = ["assemble", "listening", "serve"]

# Seconds that an idle connection stays open: longer than clients keep theirs. Uvicorn's five end connections that a busy
# process has not looked at yet, with a request in them.
_KEEP_ALIVE = 75


def assemble(
    model: Any,
    processor: Any,
    method: Method,
    limits: Limits,
    access: Access,
    scorer: Any = None,
    fallback: Fallback | None = None,
    recheck: tuple[float, Watch, int | None] | None = None,
) -> tuple[Any, Engine]:
    """The ASGI application of a loaded model, warmed up, and its engine; takes what ``Service`` takes.

    Args:
        recheck: the share of the replies that is asked for again with all image tokens, what is told of them, and how many
            tokens of each are compared (None: all).

    Raises:
        TrimkitError: this model, or this method on it, cannot be served.
    """
    service = Service(model, processor, method, limits, access, scorer, fallback)
    warm_up(model, service)
    metrics = Metrics()
    engine = Engine(model, processor, service.prefill, service.prompts, limits, metrics)
    again = None if recheck is None else Recheck(*recheck[:2], engine.submit, metrics, recheck[2])
    return build_app(service, engine, metrics, again), engine


def serve(app: Any, engine: Engine, limits: Limits, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT: then finish what runs, within ``limits.grace`` seconds, and take nothing new.

    Args:
        app, engine: as ``assemble`` gives them.
        limits: of the server.
        listener: see ``listening``.
        ready: called once when requests are taken.
    """
    settle_memory()
    grace = int(limits.grace) + 5  # the engine fails what is left before
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace,
        timeout_keep_alive=_KEEP_ALIVE,
    )
    _Server(config, app.state.chat, engine, limits.grace, ready).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Stops in good order, once: a second signal ends it at once.

    Args:
        config: uvicorn's.
        chat: refuses new requests from the first signal on.
        engine: fails what still runs when the grace is over.
        grace: seconds.
        ready: called when requests are taken.
    """

    def __init__(
        self, config: uvicorn.Config, chat: Chat, engine: Engine, grace: float, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._chat, self._engine, self._grace, self._ready = chat, engine, grace, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it, then say so."""
        await super().startup(sockets)
        if self.started and not self.should_exit:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it; what is not done when the grace is over fails with an error of its own."""
        last = asyncio.get_running_loop().call_later(self._grace, self._engine.abort)
        try:
            await super().shutdown(sockets)
        finally:
            last.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle both signals while it serves. Uvicorn raises them again in the end, which would make a stop a failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; at the second time at once."""
        self._chat.draining = True
        if self.should_exit:
            self.force_exit = True
            self._engine.abort()
        self.should_exit = True


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to an address, so that one that cannot be used is known before a model is loaded.

    Args:
        host, port: where; port 0 takes a free one.

    Raises:
        ConfigError: the address cannot be used.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except (OSError, OverflowError, TypeError, ValueError) as error:  # names that are none: of every kind
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot listen at {host}:{port} ({reason}): give another --host or --port") from None
        yield listener
