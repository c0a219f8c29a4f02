"""Pictures from the web: http(s) only, redirects too, within bytes and seconds. The only server is on 127.0.0.1."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from tests.cli.conftest import Cli, cli
from tests.cli.test_errors import assert_one_line
from trimkit.errors import InputError
from trimkit.io.fetch import fetch

__all__ = ["cli"]  # the fixture


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        redirects = {"/moved": "/picture.png", "/round": "/round"}
        redirects |= {"/to-file": "file:///etc/passwd", "/to-ftp": "ftp://127.0.0.1/x"}
        path = self.path.partition("?")[0]
        if path in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[path])
            self.end_headers()
            return
        if path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        body = {"/picture.png": _png(), "/page": b"<html>no picture</html>", "/large": b"x" * 3_000_000}.get(path, b"")
        if path == "/liar":
            self.send_header("Content-Length", "99000000000")
        elif path not in ("/slow", "/large"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
            for _ in range(40 if path == "/slow" else 0):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass  # the reader has seen enough

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/picture.png", "/moved", "/picture.png?size=large"])
def test_a_picture_comes_whole(path: str, server: str) -> None:
    assert fetch(server + path) == _png()


@pytest.mark.parametrize(
    ("path", "limits", "cause"),
    [
        ("/missing", {}, "404"),
        ("/large", {"max_bytes": 1_000_000}, "over the limit of 1 MB"),
        ("/liar", {}, "over the limit of 32 MB"),
        ("/slow", {"max_seconds": 0.3}, "takes longer"),
        ("/to-file", {}, "not an http or https address|302"),
        ("/to-ftp", {}, "not an http or https address"),
        ("/round", {}, "302|redirect"),
    ],
)
def test_limits_are_one_line(path: str, limits: dict[str, float], cause: str, server: str) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match=cause) as caught:
        fetch(server + path, **limits)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:image/png;base64,AA", "http://127.0.0.1:1/"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(InputError):
        fetch(url)


def test_ask_takes_an_address(server: str, cli: Cli) -> None:
    address = f"{server}/picture.png"
    outcome = cli("ask", address, "What?", "--method", "random", "--budget", "7", "--max-new-tokens", "1")
    assert outcome.code == 0
    assert "7 of 576 image tokens" in outcome.out


@pytest.mark.parametrize(("path", "cause"), [("/page", "not an image"), ("/missing", "404"), ("/empty", "is empty")])
def test_what_is_no_picture_is_one_line_with_its_address(path: str, cause: str, server: str, cli: Cli) -> None:
    assert_one_line(cli("ask", server + path, "What?"), cause, server + path)


@pytest.mark.parametrize("url", ["http://[::1", "https://[", "http://[x]/a.png"])
def test_an_address_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(InputError, match=r"not an http or https address|cannot be fetched") as raised:
        fetch(url)
    assert "\n" not in str(raised.value)
