"""Servers as a user may name them: one that answers as OpenAI's does, and others that answer something else."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.fuzz.world import DEEP, DIGITS

_MODELS = {"data": [{"id": "demo"}]}
_ANSWER = {"choices": [{"message": {"content": "red"}, "finish_reason": "stop"}], "usage": {"total_tokens": 3}}
_REPLIES: dict[str, tuple[int, str]] = {
    "good": (200, ""),
    "list": (200, "[1, 2]"),
    "html": (200, "<html>\udce9</html>"),
    "deep": (200, DEEP),
    "refuse": (401, '{"error": "no key"}'),
    "fail": (500, "\x1b[2J" * 1000),
    "numbers": (200, f'{{"data": {DIGITS}, "choices": {DIGITS}}}'),
    "empty": (200, ""),
    "cut": (200, "{"),
}


class _Handler(BaseHTTPRequestHandler):
    """``/NAME/v1/models`` and ``/NAME/v1/chat/completions`` for each name of ``_REPLIES``; ``/picture.png``."""

    picture = b""

    def do_GET(self) -> None:
        self._answer(_MODELS)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(_ANSWER)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, good: object) -> None:
        name = self.path.strip("/").split("/")[0]
        if name == "garbage":
            self.wfile.write(b"\xff\x00 this is no HTTP\n")
            return
        status, text = _REPLIES.get(name, (404, "nothing"))
        body = json.dumps(good).encode() if name == "good" else text.encode("utf-8", "surrogateescape")
        if self.path == "/picture.png":
            status, body = 200, self.picture
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + 9 * (name == "cut")))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked has gone: no matter."""


@contextlib.contextmanager
def serving(picture: Path) -> Iterator[int]:
    """The port at which they answer."""
    handler = type("Handler", (_Handler,), {"picture": picture.read_bytes()})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
