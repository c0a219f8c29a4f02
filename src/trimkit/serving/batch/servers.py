"""Several OpenAI-compatible servers as one: the least busy is asked, one that fails rests, and what can be tried again is."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trimkit.errors import ConfigError, MissingDependencyError
from trimkit.io.addresses import is_sendable_key, is_server_address
from trimkit.io.text import parse_json
from trimkit.serving.http_client import opened_client

if TYPE_CHECKING:
    import httpx

__all__ = ["RowFailedError", "ServerPool", "ServerSettings", "ServersGoneError"]

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # another try may go well
_STOP = frozenset({401, 403, 404})  # every other row would be answered so, too
_LONGEST_REST = 30.0  # seconds
_MAX_REPLY = 64 * 2**20  # bytes


@dataclass(frozen=True)
class ServerSettings:
    """How servers are asked.

    Attributes:
        urls: addresses such as ``http://host:8000``; one that ends in ``/v1`` is the same.
        api_key: sent as ``Authorization: Bearer``; None sends none.
        in_flight: requests at once at each server.
        retries: further tries of a row after the first.
        timeout: seconds until a reply counts as none.
        first_rest: seconds that a server rests after a failure; twice as long after each further one, at most 30.

    Raises:
        ConfigError: no server, an address that is none, or a number that cannot be.
    """

    urls: tuple[str, ...]
    api_key: str | None = None
    in_flight: int = 8
    retries: int = 4
    timeout: float = 300.0
    first_rest: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not self.urls:
            raise ConfigError("there is no server to ask: give its address, such as http://localhost:8000")
        for url in self.urls:
            if not is_server_address(url):
                raise ConfigError(f"server {url!r} is no address: give one such as http://localhost:8000")
        if not is_sendable_key(self.api_key):
            raise ConfigError("the API key holds what no header can carry: give it without spaces, in plain letters")
        for name, low in (("in_flight", 1), ("retries", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name} {getattr(self, name)} is below {low}")
        if not self.timeout > 0:
            raise ConfigError(f"timeout {self.timeout} is no number of seconds above 0")


class RowFailedError(Exception):
    """A row could not be answered; ``status`` is the last reply's, None where there was no reply."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class ServersGoneError(Exception):
    """No server can be reached, or they refuse what every row would be refused for: going on is of no use."""


@dataclass
class _Server:
    url: str
    busy: int = 0
    failures: int = 0  # in a row
    rests_until: float = 0.0
    replied: float = field(default=0.0)  # when it last said anything


class ServerPool:
    """Sends requests; an asynchronous context manager.

    Args:
        settings: which servers, and how.
        transport: of httpx, in place of the network; for tests.

    Raises:
        MissingDependencyError: httpx is not installed.
    """

    def __init__(self, settings: ServerSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        try:
            import httpx
        except ImportError:
            raise MissingDependencyError("asking servers needs httpx: pip install 'trimkit[serve]'") from None
        self._settings = settings
        self._servers = [_Server(_base(url)) for url in settings.urls]
        headers = {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key}"}
        limits = httpx.Limits(max_connections=self.slots, max_keepalive_connections=self.slots)
        self._errors = (httpx.HTTPError, httpx.InvalidURL)
        self._client = opened_client(
            settings.urls, headers=headers, timeout=settings.timeout, limits=limits, transport=transport
        )

    @property
    def slots(self) -> int:
        """Requests that may be under way at once, at all servers."""
        return self._settings.in_flight * len(self._settings.urls)

    async def __aenter__(self) -> ServerPool:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def model(self) -> str:
        """The name of the first model that a server lists.

        Raises:
            ServersGoneError: no server does.
        """
        causes = []
        for server in self._servers:
            try:
                reply = await self._client.get(f"{server.url}/v1/models")
                return str(_content(reply)["data"][0]["id"])
            except (*self._errors, ValueError, LookupError, TypeError) as error:
                causes.append(f"{server.url}: {_cause(error)}")
        raise ServersGoneError(
            f"no server lists its models ({'; '.join(causes)}): check the addresses, or name the model"
        )

    async def chat(self, body: dict[str, Any]) -> Any:
        """The JSON reply to a chat request, after as many tries as it takes and may take.

        Raises:
            RowFailedError: the servers refuse this request, or every try failed.
            ServersGoneError: no server was reached by any try, or the reply tells that no row will be answered.
        """
        began, last = time.monotonic(), RowFailedError("no server was tried", None)
        for attempt in range(self._settings.retries + 1):
            server = await self._free(attempt)
            try:
                return await self._ask(server, body)
            except RowFailedError as failure:
                last = failure
                if failure.status is not None and failure.status not in _AGAIN:
                    raise
            finally:
                server.busy -= 1
        if all(server.replied < began for server in self._servers):
            raise ServersGoneError(f"no server answers ({last}): start them, then run the same command to go on")
        raise last

    async def _ask(self, server: _Server, body: dict[str, Any]) -> Any:
        try:
            reply = await self._post(server, body)
        except UnicodeError:
            raise RowFailedError("the question or the model's name is no text: it holds half a letter", None) from None
        except self._errors as error:
            self._rest(server)
            raise RowFailedError(f"{server.url}: {_cause(error)}", None) from None
        if reply.status_code in _STOP:
            raise ServersGoneError(
                f"{server.url} answers {reply.status_code} ({_message(reply)}): no row would be answered"
            )
        if reply.status_code in _AGAIN:
            self._rest(server, reply.headers.get("Retry-After"))
        if reply.status_code != 200:
            raise RowFailedError(_message(reply), reply.status_code)
        try:
            answer = _content(reply)
        except ValueError:
            self._rest(server)
            raise RowFailedError(f"{server.url}: the reply is no JSON", 502) from None
        server.failures = 0
        return answer

    async def _post(self, server: _Server, body: dict[str, Any]) -> httpx.Response:
        """The whole reply, unless it has no end.

        Raises:
            RowFailedError: it is larger than any chat completion.
        """
        import httpx

        async with self._client.stream("POST", f"{server.url}/v1/chat/completions", json=body) as reply:
            server.replied = time.monotonic()
            content = bytearray()
            async for piece in reply.aiter_bytes():
                content += piece
                if len(content) > _MAX_REPLY:
                    raise RowFailedError(f"{server.url} answers with more than {_MAX_REPLY >> 20} MiB", None)
            pause = {name: value for name, value in reply.headers.items() if name.lower() == "retry-after"}
            return httpx.Response(reply.status_code, headers=pause, content=bytes(content))

    async def _free(self, attempt: int) -> _Server:
        """The least busy server that does not rest, which then counts as busy; waits while all rest."""
        while True:
            now = time.monotonic()
            ready = [each for each in self._servers if each.rests_until <= now]
            if ready:
                chosen = min(ready, key=lambda each: (each.busy, each.failures))
                chosen.busy += 1
                return chosen
            wait = min(each.rests_until for each in self._servers) - now
            await asyncio.sleep(wait * random.uniform(1.0, 1.0 + 0.1 * (attempt + 1)))

    def _rest(self, server: _Server, after: str | None = None) -> None:
        server.failures += 1
        seconds = self._settings.first_rest * 2 ** min(server.failures - 1, 16)
        if after is not None and after.isascii() and after.isdigit():
            seconds = max(seconds, float(after)) if seconds else float(after)
        server.rests_until = time.monotonic() + min(seconds, _LONGEST_REST)


def _base(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:120]}" if str(error) else type(error).__name__


def _content(reply: Any) -> Any:
    """The JSON of a reply.

    Raises:
        ValueError: it is none, or one that is meant to do harm.
    """
    return parse_json(reply.content.decode())


def _message(reply: Any) -> str:
    """What an error reply says, OpenAI's form or another."""
    try:
        said = _content(reply)
        error = said.get("error", said)
        text = error.get("message") if isinstance(error, dict) else error
        return str(text or error)[:500]
    except (ValueError, AttributeError):
        return f"HTTP {reply.status_code}"


def servers_of(urls: Sequence[str], **options: Any) -> ServerSettings:
    """``ServerSettings`` for a list of addresses; one that is given twice counts once."""
    return ServerSettings(tuple(dict.fromkeys(_base(url) for url in urls)), **options)
