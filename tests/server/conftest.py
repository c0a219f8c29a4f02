"""A server of the embedded model in this process, asked through its ASGI application."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image

from trimkit.demo import load_demo, sample_images

if importlib.util.find_spec("fastapi") is None:  # the extra is not installed
    collect_ignore_glob = ["test_*.py"]

MODEL = "demo"
SAMPLES = list(sample_images().values())


@dataclass(frozen=True)
class Answer:
    """Status, JSON body (or the events of a stream), headers."""

    status: int
    body: Any
    headers: Any
    raw: str = ""

    @property
    def text(self) -> str:
        """Of a whole reply, or of a stream's pieces."""
        if isinstance(self.body, list):
            return "".join(c["delta"].get("content", "") for e in self.body for c in e.get("choices", []))
        return str(self.body["choices"][0]["message"]["content"])

    @property
    def message(self) -> str:
        """Of an error."""
        return str(self.body["error"]["message"])


class Server:
    """An application, asked one request at a time or many at once.

    Args:
        app: the application; its engine has to run.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    def ask(self, content: Any, **options: Any) -> Answer:
        """POST a chat request."""
        return self.many([content], **options)[0]

    def many(self, contents: list[Any], **options: Any) -> list[Answer]:
        """POST several at once."""

        async def go() -> list[Answer]:
            async with self._client() as client:
                return list(await asyncio.gather(*(self._post(client, each, **options) for each in contents)))

        return asyncio.run(go())

    def get(self, path: str, **options: Any) -> Answer:
        """GET."""

        async def go() -> Answer:
            async with self._client() as client:
                return _answer(await client.get(path, **options))

        return asyncio.run(go())

    def _client(self) -> Any:
        import httpx

        transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
        return httpx.AsyncClient(transport=transport, base_url="http://server", timeout=120)

    async def _post(self, client: Any, content: Any, **options: Any) -> Answer:
        body = content if isinstance(content, bytes) else json.dumps(content).encode("utf-8", "surrogatepass")
        return _answer(await client.post("/v1/chat/completions", content=body, **options))


def _answer(response: Any) -> Answer:
    kind = response.headers.get("content-type", "")
    if kind.startswith("application/json"):
        return Answer(response.status_code, response.json(), response.headers, response.text)
    if kind.startswith("text/event-stream"):
        lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        events = [json.loads(line) for line in lines if line != "[DONE]"]
        return Answer(response.status_code, events, response.headers, response.text)
    return Answer(response.status_code, None, response.headers, response.text)


def data_url(picture: Image.Image, kind: str = "PNG", **options: Any) -> str:
    held = io.BytesIO()
    picture.save(held, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(held.getvalue()).decode()


def sample_url(number: int = 0) -> str:
    return "data:image/png;base64," + base64.b64encode(SAMPLES[number].path.read_bytes()).decode()


def said(text: str, *urls: str) -> dict[str, Any]:
    """A user's turn: pictures, then words."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}


def chat(*messages: Any, trim: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A request's body."""
    given = {} if trim is None else {"mm_processor_kwargs": {"trim": trim}}
    return {"model": MODEL, "messages": list(messages), **given, **more}


@pytest.fixture(scope="session")
def demo() -> tuple[Any, Any]:
    return load_demo()


Make = Callable[..., Server]


@pytest.fixture(scope="session")
def make(demo: tuple[Any, Any]) -> Iterator[Make]:
    """Makes servers: keywords of ``Limits``, and ``access``, ``method`` and ``extra`` of ``assemble``."""
    from trimkit.methods import get_method
    from trimkit.serving.server.process import assemble
    from trimkit.serving.server.settings import Access, Limits

    engines = []

    def build(
        access: dict[str, Any] | None = None, method: Any = None, extra: dict[str, Any] | None = None, **limits: Any
    ) -> Server:
        chosen = method or get_method("trim")
        app, engine = assemble(*demo, chosen, Limits(**limits), Access(MODEL, **(access or {})), **(extra or {}))
        engine.start()
        engines.append(engine)
        return Server(app)

    yield build
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def server(make: Make) -> Server:
    return make(tokens=64, body_bytes=4 * 2**20, pictures=4, pixels=4_000_000)
