"""Text in pieces, draws, limits and addresses: the parts that need no model."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trimkit.errors import ConfigError, InputError
from trimkit.methods import get_method
from trimkit.serving.server import chat, remote
from trimkit.serving.server.errors import ApiError, error_of
from trimkit.serving.server.jobs import Finished, Job
from trimkit.serving.server.memory import forget_frames, give_back_memory
from trimkit.serving.server.metrics import Metrics
from trimkit.serving.server.readers import Readers
from trimkit.serving.server.remote import fetch_public, public_address
from trimkit.serving.server.replies import Reply, Waiting
from trimkit.serving.server.reply_text import ReplyText
from trimkit.serving.server.sampling import Sampler, Sampling
from trimkit.serving.server.settings import Limits


class Bytes:
    """A tokenizer of single bytes, as byte-level BPE has them for rare letters."""

    def decode(self, ids: list[int], **options: Any) -> str:
        return bytes(ids).decode("utf-8", "replace")


@pytest.mark.parametrize("text", ["plain words", "größer € 𝄞 and on", "日本語のテキスト", ""])
def test_pieces_are_whole_letters_and_make_the_text(text: str) -> None:
    reply = ReplyText(Bytes())
    pieces = [reply.add(byte) for byte in text.encode()]
    pieces.append(reply.end())
    assert "".join(pieces) == text == reply.text
    assert "\ufffd" not in "".join(pieces)


def test_letters_that_never_end_are_told_in_the_end() -> None:
    reply = ReplyText(Bytes())
    assert reply.add(ord("a")) == "a"
    assert reply.add("é".encode()[0]) == ""
    assert reply.end() == "\ufffd"


@pytest.mark.parametrize(
    ("stops", "text", "given"),
    [
        (("END",), "all ENd END more", "all ENd "),
        (("b", "ab"), "xxab", "xx"),
        (("\n\n",), "a\nb\n\nc", "a\nb"),
        (("aab",), "aaab", "a"),
        (("zz",), "az", "az"),
        (("a",), "a", ""),
    ],
)
def test_stop_texts(stops: tuple[str, ...], text: str, given: str) -> None:
    """No piece holds what a stop text begins with before it is sure that it does not come."""
    reply = ReplyText(Bytes(), stops)
    told = ""
    for byte in text.encode():
        told += reply.add(byte)
        assert given.startswith(told)
        if reply.stopped:
            break
    assert told + reply.end() == given


def test_draws() -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, -1.0])
    prompt = torch.tensor([1])
    assert Sampler(Sampling(), prompt, []).draw(logits, 0) == 1
    assert Sampler(Sampling(repetition_penalty=10.0), prompt, []).draw(logits, 0) == 2
    assert Sampler(Sampling(ignore_eos=True), prompt, [1]).draw(logits, 0) == 2
    ends = Sampler(Sampling(min_tokens=2), prompt, [1])
    assert [ends.draw(logits, count) for count in range(3)] == [2, 2, 1]
    drawn = [Sampler(Sampling(temperature=1.0, top_k=2, seed=n), prompt, []).draw(logits, 0) for n in range(60)]
    assert set(drawn) == {1, 2}
    assert drawn.count(1) > drawn.count(2)
    assert logits.tolist() == [0.0, 3.0, 2.0, -1.0], "the row of a batch is not written to"
    with pytest.raises(FloatingPointError):
        Sampler(Sampling(), prompt, []).draw(torch.full((4,), torch.nan), 0)


def test_errors_let_go_of_what_their_frames_hold() -> None:
    """Also in a cycle, as an exception in a local variable makes one, and without the garbage collector."""

    class Body:
        pass

    def read(body: Body) -> None:
        try:
            raise InputError("no picture")
        except InputError as error:
            told = error_of(error)
            raise told from None

    def fail() -> tuple[BaseException, weakref.ref[Body]]:
        body = Body()
        try:
            read(body)
        except ApiError as error:
            return error, weakref.ref(body)
        raise AssertionError

    gc.disable()
    try:
        error, body = fail()
        assert body() is not None
        forget_frames(error)
        assert body() is None
    finally:
        gc.enable()


def test_a_reply_lets_go_of_its_request_without_the_garbage_collector() -> None:
    async def go() -> weakref.ref[Job]:
        async def receive() -> Any:
            await asyncio.sleep(60)

        job = Job(None, 0, get_method("trim"), None, "refresh", Sampling(), (), 1, lambda event: None)
        reply = Reply(job, receive, time.monotonic() + 60, lambda: None)
        job.emit(Finished("stop", 1))
        reply.close()
        await asyncio.sleep(0.01)  # what was called from the engine's thread is done
        return weakref.ref(job)

    gc.disable()
    try:
        assert asyncio.run(go())() is None
    finally:
        gc.enable()


def test_memory_is_given_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(chat, "give_back_memory", lambda: given.append(1))
    counting = chat.Chat(SimpleNamespace(limits=Limits()), None, Metrics())  # type: ignore[arg-type]
    for _ in range(2 * chat._GIVE_BACK + 1):
        counting._count(200)
    counting._readers._decoding.shutdown(wait=True)
    assert len(given) == 2
    for _ in range(chat._GIVE_BACK):
        counting._count(503)  # when the readers are gone
    give_back_memory()


def test_places() -> None:
    waiting = Waiting(2)
    leave = waiting.enter()
    waiting.enter()
    with pytest.raises(ApiError) as caught:
        waiting.enter()
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "1"})
    leave()
    leave()
    assert waiting.count == 1, "a place is given back once"
    waiting.enter()


@pytest.mark.parametrize("field", ["body_bytes", "batch", "deadline"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_limits_are_positive(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        Limits(**{field: value})


PRIVATE = [
    "127.0.0.1",
    "10.0.0.1",
    "192.168.1.1",
    "172.16.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "100.64.0.1",
    "224.0.0.1",
]
PRIVATE += [
    "::1",
    "fe80::1",
    "fc00::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "ff02::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_not_public(address: str) -> None:
    with pytest.raises(InputError, match="public web"):
        public_address(address, 80)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(InputError, match="public web"):
        fetch_public(f"http://{host}/x.png", 1000, 1.0)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
def test_public_ones_are(address: str) -> None:
    assert public_address(address, 80) == address


def test_a_name_with_one_private_address_is_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [(2, 1, 6, "", (address, 80)) for address in ("8.8.8.8", "127.0.0.1")]
    monkeypatch.setattr(remote.socket, "getaddrinfo", lambda *_, **__: entries)
    with pytest.raises(InputError, match="public web"):
        public_address("both.example", 80)


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "http://", "http://user:word@host/", "http://a b/", "http://x:0/", "http://[/", "http://a/é"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InputError):
        fetch_public(url, 1000, 1.0)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A web server at a loopback address that counts as public here."""
    import http.server
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "http://10.0.0.1/")
                self.end_headers()
                return
            if self.path.startswith("/hop"):
                self.send_response(302)
                self.send_header("Location", "/picture" if self.path == "/hop1" else self.path)
                self.end_headers()
                return
            self.send_response(404 if self.path == "/none" else 200)
            self.end_headers()
            self.wfile.write(b"x" * 500)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        real = remote._is_public
        monkeypatch.setattr(remote, "_is_public", lambda address: address == "127.0.0.1" or real(address))
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_fetching(web: str) -> None:
    assert fetch_public(f"{web}/picture", 1000, 5.0) == b"x" * 500
    assert fetch_public(f"{web}/hop1", 1000, 5.0) == b"x" * 500
    for path, said in (("none", "404"), ("away", "public web"), ("hop", "redirects more")):
        with pytest.raises(InputError, match=said):
            fetch_public(f"{web}/{path}", 1000, 5.0)
    with pytest.raises(InputError, match="limit"):
        fetch_public(f"{web}/picture", 100, 5.0)


def test_slow_bodies_and_broken_ones() -> None:
    """A body that does not come is a 408, and its bytes are not held any more."""
    from starlette.requests import Request

    from trimkit.serving.server.bodies import Bodies
    from trimkit.serving.server.replies import ClientGoneError

    async def go(*messages: dict[str, Any]) -> None:
        rest = iter(messages)

        async def receive() -> dict[str, Any]:
            message = next(rest, None)
            if message is None:
                await asyncio.sleep(60)
            return message or {}

        await bodies.read(Request({"type": "http", "headers": []}, receive))

    bodies = Bodies(Limits(body_seconds=0.05, body_bytes=10))
    begun = {"type": "http.request", "body": b"12345", "more_body": True}
    with pytest.raises(ApiError, match="did not arrive"):
        asyncio.run(go(begun))
    with pytest.raises(ClientGoneError):
        asyncio.run(go(begun, {"type": "http.disconnect"}))
    with pytest.raises(ApiError, match="limit"):
        asyncio.run(go(begun, begun, begun, {"type": "http.request", "body": b"", "more_body": False}))
    assert bodies.held == 0


def test_what_a_request_holds_is_given_back_when_its_thread_is_done() -> None:
    """Not when its client is told that it took too long: bytes and places would be given away twice."""
    given: list[str] = []
    free = threading.Event()

    async def go() -> None:
        readers = Readers(1.0)
        held: Any = (lambda: given.append("bytes"), lambda: given.append("place"))
        with pytest.raises(ApiError, match="deadline"):
            await readers.read(lambda until: free.wait(10), time.monotonic() + 0.05, *held)
        await asyncio.sleep(0.05)
        assert given == []
        free.set()
        await asyncio.sleep(0.2)
        assert given == ["bytes", "place"]
        assert await readers.read(lambda until: until, time.monotonic() + 5, *held) is None
        assert given == ["bytes", "place", "bytes"]
        readers.close()
        with pytest.raises(ApiError, match="being stopped"):
            await readers.read(lambda until: until, time.monotonic() + 5, *held)
        assert given == ["bytes", "place", "bytes", "bytes", "place"]

    asyncio.run(go())
