"""Bad input is a 4xx that names the field, in OpenAI's error object; nothing a request holds is a 5xx, or stays behind."""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.server.conftest import SAMPLES, Answer, Make, Server, chat, data_url, said, sample_url
from trimkit.errors import InputError
from trimkit.serving.server import pictures as pictures_module
from trimkit.serving.server.errors import ApiError
from trimkit.serving.server.schema import ChatRequest

HELLO = {"role": "user", "content": "hello"}


def refused(answer: Answer, status: int = 400) -> str:
    assert answer.status == status, answer.raw[:500]
    error = answer.body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return str(error["message"])


def told(content: Any) -> ApiError:
    body = content if isinstance(content, bytes) else json.dumps(content).encode("utf-8", "surrogatepass")
    with pytest.raises(ApiError) as caught:
        ChatRequest.read(body)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []),
        ("messages", "hello"),
        ("messages", [{"role": "tool", "content": "x", "tool_call_id": "1"}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": None}]),
        ("messages", [{"role": "user", "content": 7}]),
        ("messages", [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]),
        ("messages", [{"role": "user", "content": [{"type": "text"}]}]),
        ("messages", [{"role": "assistant", "content": "x", "tool_calls": [{}]}]),
        ("messages", [{"role": "assistant", "content": [{"type": "image_url", "image_url": "data:"}]}]),
        ("messages", [{"role": "user", "content": "\ud800"}]),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_tokens", "5"),
        ("max_completion_tokens", 1.5),
        ("temperature", -1),
        ("temperature", "hot"),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("seed", 1.5),
        ("stop", ""),
        ("stop", ["x"] * 17),
        ("stop", [1]),
        ("n", 2),
        ("n", 0),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("frequency_penalty", 0.5),
        ("presence_penalty", True),
        ("logit_bias", {"5": 1}),
        ("response_format", {"type": "json_object"}),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("modalities", ["audio"]),
        ("no_such_field", 1),
        ("stream", "yes"),
        ("stream_options", {"include_usage": "yes"}),
        ("mm_processor_kwargs", {"size": 3}),
        ("mm_processor_kwargs", {"trim": 5}),
        ("mm_processor_kwargs", {"trim": {"query": 5}}),
        ("mm_processor_kwargs", {"trim": {"query": "x" * 20_000}}),
        ("mm_processor_kwargs", {"trim": {"turns": "sometimes"}}),
        ("mm_processor_kwargs", {"trim": {"report": 1}}),
        ("mm_processor_kwargs", {"trim": {"budget": [1]}}),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(field: str, value: Any) -> None:
    error = told({**chat(HELLO), field: value})
    assert field in f"{error.param} {error}"


@pytest.mark.parametrize(
    "more",
    [
        {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False, "top_logprobs": None, "logit_bias": {}},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"], "n": 1},
        {"max_tokens": 5, "max_completion_tokens": 5, "stop": None, "stream_options": None, "seed": -3},
    ],
)
def test_what_asks_for_nothing_special_is_taken(more: dict[str, Any]) -> None:
    ChatRequest.read(json.dumps({**chat(HELLO), **more}).encode())


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}"]
)
def test_bodies_that_are_no_request(body: bytes) -> None:
    told(body)


def test_addresses_and_models(server: Server) -> None:
    refused(server.get("/v1/completions"), 404)
    refused(server.get("/v1/chat/completions"), 405)
    answer = server.ask({**chat(HELLO), "model": "gpt-4o"})
    assert "'demo'" in refused(answer, 404)
    assert answer.body["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("trim", "said_of_it"),
    [
        ({"budget": 0}, "budget"),
        ({"budget": "many"}, "budget"),
        ({"method": "no-such"}, "no-such"),
        ({"method": "fastv"}, "inside the language model"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"query": " "}, "query"),
        ({"query": "\ud800"}, "mm_processor_kwargs.trim.query"),
        ({"profile": {"sign": 5}}, "sign"),
    ],
)
def test_settings_that_cannot_be(server: Server, trim: dict[str, Any], said_of_it: str) -> None:
    assert said_of_it in refused(server.ask(chat(said("?", sample_url()), trim=trim)))


def _png_header(width: int, height: int) -> str:
    """A picture of a few bytes that says it is huge."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _nan_tiff() -> str:
    return data_url(Image.fromarray(np.full((40, 40), np.nan, dtype=np.float32)), "TIFF")


PICTURES = {
    "no scheme": "hello",
    "a file": "file:///etc/passwd",
    "no base64": "data:image/png;base64,!!!",
    "no picture": "data:image/png;base64,aGVsbG8=",
    "empty": "data:image/png;base64,",
    "not encoded": "data:image/png,abc",
    "a text": "data:text/html;base64,aGVsbG8=",
    "a bomb": _png_header(60_000, 60_000),
    "too many pixels": _png_header(3_000, 3_000),
    "no pixels": _png_header(0, 0),
    "a line": data_url(Image.new("RGB", (3000, 2))),
    "cut short": data_url(Image.linear_gradient("L"))[:-400],
    "no numbers": _nan_tiff(),
    "from the web": "http://127.0.0.1/picture.png",
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_are_none(server: Server, name: str) -> None:
    answer = server.ask(chat(said("?", PICTURES[name])))
    refused(answer)
    assert answer.body["error"]["param"] == "messages.0.content.0.image_url"


def test_limits(server: Server) -> None:
    assert "5 pictures" in refused(server.ask(chat(said("?", *[sample_url()] * 5))))
    assert "limit of 64" in refused(server.ask(chat(HELLO, max_tokens=65)))
    assert "min_tokens" in refused(server.ask(chat(HELLO, max_tokens=5, min_tokens=6)))
    assert "4 MiB" in refused(server.ask(chat({"role": "user", "content": "x" * (5 * 2**20)})), 413)
    for words in ("red " * 3000, "x" * 200_000):
        answer = server.ask(chat({"role": "user", "content": words}))
        refused(answer)
        assert answer.body["error"]["code"] == "context_length_exceeded"
    four = chat(said("?", *[sample_url()] * 4), trim={"method": "none"})
    assert "room for 2048" in refused(server.ask(four))
    assert server.ask(chat(said("?", *[sample_url()] * 4), trim={"budget": 100})).status == 200
    assert "placeholder" in refused(server.ask(chat(said("what <image> is it?", sample_url()))))
    assert "says nothing" in refused(server.ask(chat({"role": "user", "content": " "})))


def _ico(side: int) -> str:
    """An icon of 16 x 16 pixels, whose picture within is another."""
    held = io.BytesIO()
    Image.new("1", (side, side)).save(held, "PNG")
    within = held.getvalue()
    head = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(within), 22)
    return "data:image/x-icon;base64," + base64.b64encode(head + within).decode()


def test_a_picture_within_a_picture_is_not_decoded_beyond_the_limit(server: Server) -> None:
    assert "not an image" in refused(server.ask(chat(said("?", _ico(3_000)))))


@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 1e-300])
def test_hardly_any_temperature_is_none(server: Server, temperature: float) -> None:
    cold, none = (server.ask(chat(HELLO, temperature=each, max_tokens=3)) for each in (temperature, 0))
    assert cold.status == 200
    assert cold.text == none.text


@pytest.mark.parametrize("text", ["what does {'type': 1} mean?", "[{'type': 'text', 'text': 'hi'}]"])
def test_a_text_may_look_like_parts(server: Server, text: str) -> None:
    assert server.ask(chat({"role": "user", "content": text}, max_tokens=2)).status == 200
    assert server.ask(chat(said(text, sample_url()), max_tokens=2)).status == 200


def test_slow_hosts_hold_up_nobody_else(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures from the web are waited for apart; their bytes and places are given back when the thread is done."""
    free = threading.Event()

    def slow(url: str, most: int, seconds: float) -> bytes:
        free.wait(20)
        raise InputError("no answer")

    monkeypatch.setattr(pictures_module, "fetch_public", slow)
    server = make(deadline=1.0, access={"remote_pictures": True})
    remote = chat(said("?", "http://example.com/a.png"))
    answers = server.many([remote, remote, remote, chat(HELLO, max_tokens=2)])
    assert [answer.status for answer in answers] == [504, 504, 504, 200]
    free.set()


def test_a_body_that_lies_about_its_length(server: Server) -> None:
    refused(server.ask(chat(HELLO), headers={"Content-Length": str(2**40)}), 413)


def test_beyond_the_queue_is_a_429(make: Make) -> None:
    small = make(batch=1, queue=2, tokens=32)
    answers = small.many([chat(HELLO, ignore_eos=True, max_tokens=32)] * 12)
    assert {answer.status for answer in answers} == {200, 429}
    late = next(answer for answer in answers if answer.status == 429)
    refused(late, 429)
    assert int(late.headers["retry-after"]) >= 1
    assert small.ask(chat(HELLO)).status == 200, "places are given back"


def test_the_deadline(make: Make) -> None:
    slow = make(deadline=0.05, tokens=1024)
    whole = slow.ask(chat(HELLO, ignore_eos=True))
    refused(whole, 504)
    slow = make(deadline=1.5, tokens=1024)
    streamed = slow.ask(chat(HELLO, ignore_eos=True, stream=True))
    if streamed.status == 200:  # it began in time
        assert streamed.body[-1]["error"]["code"] == "timeout"
        assert "[DONE]" not in streamed.raw
    else:
        refused(streamed, 504)


def test_a_failure_within_a_stream_is_an_event(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model breaks at the third step: the stream ends with an error and without a normal end; the next one is served."""
    from trimkit.serving.server.kv_batch import KVBatch

    broken = make(tokens=32)
    step, steps = KVBatch.step, []

    def breaks(self: KVBatch, tokens: Any) -> Any:
        steps.append(tokens)
        if len(steps) == 3:
            raise RuntimeError("a cable was pulled")
        return step(self, tokens)

    monkeypatch.setattr(KVBatch, "step", breaks)
    answer = broken.ask(chat(HELLO, ignore_eos=True, stream=True))
    assert answer.status == 200
    assert answer.body[-1]["error"]["type"] == "server_error"
    assert "cable" not in answer.raw, "details are for the log"
    assert "[DONE]" not in answer.raw
    assert not any(event.get("choices", [{}])[0].get("finish_reason") for event in answer.body[:-1])
    assert broken.ask(chat(HELLO, ignore_eos=True)).status == 200


def test_choosing_that_fails_falls_back_to_equal_distances(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from trimkit.methods.trim import Trim

    class Broken:
        def __get__(self, *_: Any) -> Any:
            raise RuntimeError("no scores today")

    fresh = make()
    monkeypatch.setattr(Trim, "scores", Broken())
    answer = fresh.ask(chat(said("?", sample_url()), trim={"budget": 64}))
    assert answer.status == 200
    assert (answer.body["trim"]["method"], answer.body["trim"]["fallback"]) == ("uniform", True)
    assert answer.body["usage"]["prompt_tokens_details"]["image_tokens"] == 64
    assert "trimkit_fallbacks_total 1.0" in fresh.get("/metrics").raw


_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = ["model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop", "n", "stream", "top_k"]
_FIELDS += ["stream_options", "mm_processor_kwargs", "ignore_eos", "min_tokens", "tools", "logit_bias", "x"]
_INSIDE = ["method", "budget", "query", "report", "aggregate", "profile", "seed", "temperature", "share", "x"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(field=st.sampled_from(_FIELDS), inside=st.sampled_from([None, *_INSIDE]), value=_JSON)
def test_anything_anywhere_is_no_5xx(server: Server, field: str, inside: str | None, value: Any) -> None:
    body = {**chat(HELLO), "max_tokens": 2}
    if inside is None:
        body[field] = value
    else:
        body["mm_processor_kwargs"] = {"trim": {inside: value}}
    answer = server.ask(body)
    assert answer.status in (200, 400, 404), answer.raw[:300]
    if answer.status != 200:
        refused(answer, answer.status)


def test_pictures_of_several_formats(server: Server) -> None:
    with Image.open(SAMPLES[0].path) as opened:
        picture = opened.convert("RGB")
    urls = [sample_url(), data_url(picture, "BMP"), data_url(picture, "WEBP", lossless=True)]
    answers = server.many([chat(said(SAMPLES[0].question, url)) for url in urls])
    assert [answer.status for answer in answers] == [200] * 3
    assert len({answer.text for answer in answers}) == 1
