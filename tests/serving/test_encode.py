"""The encoder in front of an engine: what the engine is sent, what clients are told, and who is refused."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

import trimkit
from tests.contract.tiny_families import gemma3
from tests.serving.fake_engine import DONE, FakeEngine, Sent, event
from tests.tiny import qwen2_5_vl
from trimkit.demo import load_demo, sample_images
from trimkit.errors import ModelError, UnsupportedError
from trimkit.methods import get_method
from trimkit.models import family_of
from trimkit.serving.encode.app import create_app
from trimkit.serving.encode.checks import check_positions, placeholder_frame
from trimkit.serving.encode.encoder import PictureEncoder
from trimkit.serving.encode.metrics import EncodeMetrics
from trimkit.serving.encode.prompt import added_tokens
from trimkit.serving.encode.upstream import Upstream
from trimkit.serving.report_json import report_of
from trimkit.serving.server.messages import TrimRequest
from trimkit.serving.server.settings import Limits

PATHS = [sample.path for sample in sample_images().values()][:3]
QUESTION = "The fox is on a disc of which color?"
Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    return load_demo()


@pytest.fixture(scope="module")
def encoder(demo: tuple[Any, Any]) -> PictureEncoder:
    return PictureEncoder(*demo, method=get_method("trim"))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def ask(encoder: PictureEncoder, engine: FakeEngine) -> Iterator[Ask]:
    def call(body: Any = None, *, path: str = "/v1/chat/completions", key: str | None = None, **options: Any) -> Any:
        app = create_app(encoder, "http://engine", transport=engine, **options)

        async def send() -> httpx.Response:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front") as client:
                if body is None:
                    return await client.get(path, headers=headers)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                return await client.post(path, content=content, headers=headers)

        return asyncio.run(send())

    return call


def url_of(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def picture(number: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url_of(PATHS[number].read_bytes())}}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def chat(*messages: Any, trim: Any = None, **fields: Any) -> dict[str, Any]:
    given = {} if trim is None else {"mm_processor_kwargs": {"trim": trim}}
    return {"model": "m", "messages": list(messages), **given, **fields}


def said(reply: httpx.Response, status: int) -> str:
    """The message of an error, in OpenAI's form."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert "\n" not in error["message"]
    return str(error["message"])


def attached(demo: tuple[Any, Any], turns: list[Any], numbers: list[int], **options: Any) -> list[torch.Tensor]:
    """The embeddings that the language model of an attached model is given."""
    model, processor = demo
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    images = [Image.open(PATHS[number]).convert("RGB") for number in numbers]
    inputs = processor(images=images, text=[text], return_tensors="pt")
    with torch.no_grad():
        return [each.embeddings for each in trimkit.prepare(model, processor, inputs, **options).images]


IMAGE = {"type": "image"}


# What the engine is sent


@pytest.mark.parametrize(
    "trim",
    [
        {},
        {"budget": "iqr"},
        {"budget": "top-p:0.9"},
        {"budget": 121},
        {"budget": 0.25},
        {"budget": 1.0},
        {"method": "divprune", "budget": 64},
        {"method": "none"},
    ],
    ids=str,
)
def test_the_engine_gets_text_and_what_an_attached_model_gets(
    trim: dict[str, Any], ask: Ask, engine: FakeEngine, demo: tuple[Any, Any]
) -> None:
    reply = ask(chat(user(picture(0), words(QUESTION)), trim=trim, temperature=0, max_tokens=7))
    assert reply.status_code == 200, reply.text
    (sent,) = engine.sent
    assert sent.text == f"<s>USER: <embeds>\n{QUESTION} ASSISTANT:"
    (expected,) = attached(demo, [user(IMAGE, words(QUESTION))], [0], **trim)
    torch.testing.assert_close(sent.embeddings[0], expected, rtol=0, atol=1e-5)
    rest = {key: value for key, value in sent.body.items() if key != "messages"}
    assert rest == {"model": "m", "temperature": 0, "max_tokens": 7, "add_special_tokens": False}
    assert reply.headers["x-trimkit-image-tokens-before"] == "576"
    assert reply.headers["x-trimkit-image-tokens-after"] == str(len(expected))


def test_conversations_of_several_pictures(ask: Ask, engine: FakeEngine, demo: tuple[Any, Any]) -> None:
    first = user(picture(0), words("Is there a fox?"))
    answer = {"role": "assistant", "content": "yes"}
    assert ask(
        chat({"role": "system", "content": "Be brief."}, first, answer, user(picture(1), words(QUESTION)))
    ).is_success
    (sent,) = engine.sent
    assert sent.text == (
        f"<s>Be brief. USER: <embeds>\nIs there a fox? ASSISTANT: yes USER: <embeds>\n{QUESTION} ASSISTANT:"
    )
    turns = [user(IMAGE, words("Is there a fox?")), {"role": "assistant", "content": [words("yes")]}]
    expected = attached(demo, [*turns, user(IMAGE, words(QUESTION))], [0, 1], query=QUESTION)
    for found, wanted in zip(sent.embeddings, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_a_question_apart_chooses(ask: Ask, engine: FakeEngine, demo: tuple[Any, Any]) -> None:
    ask(chat(user(picture(0), words("Answer in one word.")), trim={"query": QUESTION}))
    turns = [user(IMAGE, words("Answer in one word."))]
    torch.testing.assert_close(engine.sent[0].embeddings[0], *attached(demo, turns, [0], query=QUESTION))
    assert len(engine.sent[0].embeddings[0]) != len(attached(demo, turns, [0])[0])  # the words chose otherwise


def test_a_picture_without_a_word(ask: Ask, engine: FakeEngine, demo: tuple[Any, Any]) -> None:
    ask(chat(user(picture(0))))
    torch.testing.assert_close(engine.sent[0].embeddings[0], *attached(demo, [user(IMAGE)], [0]))


def test_text_alone(ask: Ask, engine: FakeEngine) -> None:
    assert ask(chat(user(words("hello")))).json()["choices"][0]["message"]["content"] == "<s>USER: hello ASSISTANT:"
    assert engine.sent[0].embeddings == []


def test_the_engine_gets_the_tokens_that_a_processor_makes(ask: Ask, engine: FakeEngine, demo: tuple[Any, Any]) -> None:
    """An engine tokenizes what a chat template gives without adding anything, whatever it is told of special tokens."""
    ask(chat(user(words("hello"))))
    ask(chat(user(picture(0), words(QUESTION))))
    processor = demo[1]
    for sent, content in zip(engine.sent, ([words("hello")], [IMAGE, words(QUESTION)]), strict=True):
        text = processor.apply_chat_template([user(*content)], add_generation_prompt=True, tokenize=False)
        wanted = processor.tokenizer(text)["input_ids"]
        found = processor.tokenizer(sent.text.replace("<embeds>", "<image>"), add_special_tokens=False)["input_ids"]
        assert found == wanted
        assert wanted[0] == processor.tokenizer.bos_token_id


@pytest.mark.parametrize(
    ("added", "written"), [((), ("", "")), (("<s>",), ("<s>", "")), (("<s>", "</s>"), ("<s>", "</s>"))]
)
def test_what_a_tokenizer_adds_is_written_as_text(added: tuple[str, ...], written: tuple[str, str]) -> None:
    class Tokenizer:
        words = ("<s>", "</s>", "x")

        def __call__(self, text: str, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
            ids = [self.words.index(word) for word in re.findall(r"</?s>|x", text)]
            if add_special_tokens:
                ids = (
                    [self.words.index(word) for word in added[:1]]
                    + ids
                    + [self.words.index(word) for word in added[1:]]
                )
            return {"input_ids": ids}

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [self.words[each] for each in ids]

    assert added_tokens(Tokenizer()) == written
    Tokenizer.convert_ids_to_tokens = lambda self, ids: ["?" for _ in ids]  # type: ignore[method-assign]
    if added:
        with pytest.raises(UnsupportedError, match="no text"):
            added_tokens(Tokenizer())


def test_another_method_has_its_own_default_budget_but_where_the_server_was_given_one(demo: tuple[Any, Any]) -> None:
    for given, budget in (({}, get_method("focus").budget), ({"budget": 50}, get_method("focus", budget=50).budget)):
        encoder = PictureEncoder(*demo, method=get_method("trim", aggregate="none", **given))
        assert encoder.method_for(TrimRequest(method="focus")) == get_method("focus", budget=budget)
        assert encoder.method_for(TrimRequest(budget=7)) == get_method("trim", aggregate="none", budget=7)


def test_requests_at_once_get_their_own(encoder: PictureEncoder, engine: FakeEngine) -> None:
    def reply(sent: Sent) -> httpx.Response:
        return httpx.Response(200, json={"text": sent.text, "tokens": len(sent.embeddings[0])})

    engine.reply = reply
    app = create_app(encoder, "http://engine", transport=engine)
    budgets = [10 + number for number in range(24)]

    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front") as client:
            bodies = [chat(user(picture(n % 3), words(f"question {n}")), trim={"budget": n}) for n in budgets]
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for body in bodies))

    for budget, reply in zip(budgets, asyncio.run(send()), strict=True):
        assert reply.json() == {"text": f"<s>USER: <embeds>\nquestion {budget} ASSISTANT:", "tokens": budget}


def test_what_was_kept_is_reported_where_that_is_asked_for(ask: Ask) -> None:
    trim = ask(chat(user(picture(0), words(QUESTION)), trim={"budget": 64, "report": True})).json()["trim"]
    (image,) = trim["images"]
    assert (trim["method"], trim["image_tokens_before"], trim["image_tokens"]) == ("trim", 576, 64)
    assert (image["grid"], image["query"], image["aggregated"]) == ([24, 24], QUESTION, True)
    assert len(image["indices"]) == 63
    assert len(image["relevance"]) == 576
    assert [len(each.indices) for each in report_of(trim).images] == [63]  # what trimkit show reads


# Streams


def test_a_stream_comes_through_as_it_is(ask: Ask, engine: FakeEngine) -> None:
    reply = ask(chat(user(picture(0), words(QUESTION)), stream=True))
    assert reply.content == event("a") + event("b") + DONE
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert engine.streams[0].closed


@pytest.mark.parametrize("breaks", [True, False])
@pytest.mark.parametrize("pieces", [[], [event("a")], [event("a"), event("b")[:9]], [event("a"), b"data: [DO"]])
def test_a_stream_that_breaks_off_ends_with_an_error_event(
    breaks: bool, pieces: list[bytes], ask: Ask, engine: FakeEngine
) -> None:
    engine.pieces, engine.breaks = pieces, breaks
    reply = ask(chat(user(words("hello")), stream=True))
    assert reply.content.startswith(b"".join(pieces))
    last = reply.content.decode().rstrip("\n").split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
    assert "[DONE]" not in reply.text
    assert engine.streams[0].closed


def test_a_client_that_goes_before_the_first_event_frees_its_place(encoder: PictureEncoder, engine: FakeEngine) -> None:
    app = create_app(encoder, "http://engine", transport=engine, limits=Limits(queue=1))
    body = json.dumps(chat(user(words("hello")), stream=True)).encode()
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}
    scope |= {"http_version": "1.1", "asgi": {"version": "3.0", "spec_version": "2.4"}}

    async def send(message: Any) -> None:
        raise OSError("the client has gone")

    async def go() -> None:
        for _ in range(3):
            told = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def receive(told: Any = told) -> Any:
                return next(told, {"type": "http.disconnect"})

            with contextlib.suppress(Exception):  # what the server makes of a broken connection
                await app(scope, receive, send)

    asyncio.run(go())
    assert len(engine.streams) == 3
    assert all(stream.closed for stream in engine.streams)


def test_done_may_come_in_two_pieces(ask: Ask, engine: FakeEngine) -> None:
    engine.pieces = [event("a") + DONE[:9], DONE[9:]]
    assert ask(chat(user(words("hello")), stream=True)).content == event("a") + DONE


@pytest.mark.parametrize("stream", [False, True])
def test_the_engines_errors_are_the_clients(stream: bool, ask: Ask, engine: FakeEngine) -> None:
    error = {"error": {"message": "no such model", "type": "NotFoundError", "param": "model", "code": 404}}
    engine.reply = lambda sent: httpx.Response(404, json=error)
    reply = ask(chat(user(words("hello")), stream=stream))
    assert (reply.status_code, reply.json()) == (404, error)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "status"), [(httpx.ConnectError, 503), (httpx.ReadTimeout, 504)])
def test_an_engine_that_does_not_answer(
    error: type[httpx.TransportError], status: int, stream: bool, ask: Ask, engine: FakeEngine
) -> None:
    def gone(sent: Sent) -> httpx.Response:
        raise error("gone")

    engine.reply = gone
    assert "does not answer" in said(ask(chat(user(words("hello")), stream=stream)), status)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cuts", [1, 2])
def test_a_connection_that_is_cut_is_tried_once_more(cuts: int, stream: bool, ask: Ask, engine: FakeEngine) -> None:
    left = [httpx.RemoteProtocolError("disconnected"), httpx.ReadError("reset")][:cuts]

    def reply(sent: Sent) -> None:
        if left:
            raise left.pop()

    engine.reply = reply
    answer = ask(chat(user(words("hello")), stream=stream))
    assert len(engine.sent) == 2
    assert answer.status_code == (200 if cuts == 1 else 503)


# Who is refused


def bomb() -> str:
    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    return url_of(file.getvalue())


HELLO = user(words("hello"))


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 5000,
        {"model": "m"},
        chat(),
        chat("hello"),
        chat({"role": "robot", "content": "x"}),
        chat({"role": "user"}),
        chat({"role": "user", "content": 3}),
        chat(user("text")),
        chat(user({"type": "text", "text": 3})),
        chat(user({"type": "video_url", "video_url": {"url": "data:,"}})),
        chat(user({"type": "prompt_embeds", "data": "AAAA"})),
        chat(user({"type": "image_url"})),
        chat(user({"type": "image_url", "image_url": {"url": 3}})),
        chat(user({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}})),
        chat(user({"type": "image_url", "image_url": {"url": "http://169.254.169.254/picture.png"}})),
        chat(user({"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!"}})),
        chat(user({"type": "image_url", "image_url": {"url": url_of(b"no picture")}})),
        chat(user({"type": "image_url", "image_url": {"url": url_of(PATHS[0].read_bytes()[:300])}})),
        chat(user({"type": "image_url", "image_url": {"url": bomb()}})),
        chat(user(*[picture(0)] * 9)),
        chat(user(picture(0), words("what is <image> ?"))),
        chat(user(words("\ud800"))),
        chat(HELLO, stream="yes"),
        chat(HELLO, mm_processor_kwargs=3),
        chat(HELLO, mm_processor_kwargs={"size": 3}),
        chat(HELLO, chat_template="{{ messages }}"),
        chat(HELLO, tools=[{"type": "function"}]),
        chat({"role": "assistant", "content": [picture(0)]}),
        chat(HELLO, trim="121"),
        chat(HELLO, trim={"method": "nobody"}),
        chat(HELLO, trim={"turns": "first"}),
        chat(HELLO, trim={"fallback": "full"}),
        chat(HELLO, temperature=float("nan")),
        chat(HELLO, top_p=float("inf")),
        chat(HELLO, user="\ud800"),
        chat(HELLO, z=["\udfff"]),
        chat(HELLO, trim={"method": 3}),
        chat(HELLO, trim={"budget": 0}),
        chat(HELLO, trim={"budget": "many"}),
        chat(HELLO, trim={"budget": {"a": 1}}),
        chat(HELLO, trim={"color": "red"}),
        chat(HELLO, trim={"query": 3}),
        chat(HELLO, trim={"report": "yes"}),
        chat(HELLO, trim={"report": True}, stream=True),
        chat(user(picture(0), words("a")), trim={"method": "fastv", "budget": 64}),
        chat(user(picture(0), words("a")), trim={"share": "prompt", "budget": 64}),
    ],
    ids=lambda body: str(body)[-70:],
)
def test_what_a_request_gets_wrong_is_a_400(body: Any, ask: Ask, engine: FakeEngine) -> None:
    said(ask(body), 400)
    assert engine.sent == []


def test_limits(ask: Ask, engine: FakeEngine) -> None:
    body = chat(user(picture(0), words(QUESTION)))
    assert "over the limit" in said(ask(body, limits=Limits(body_bytes=1000)), 413)
    assert "picture" in said(ask(body, limits=Limits(pixels=1000)), 400)
    assert engine.sent == []


def test_one_request_too_many_is_a_429(encoder: PictureEncoder, engine: FakeEngine) -> None:
    app = create_app(encoder, "http://engine", transport=engine, limits=Limits(queue=2))

    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front") as client:
            body = chat(user(picture(0), words(QUESTION)))
            first = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(6)))
            return [*first, await client.post("/v1/chat/completions", json=chat(HELLO, stream=True))]

    *replies, last = asyncio.run(send())
    assert sorted(reply.status_code for reply in replies) == [200, 200, 429, 429, 429, 429]
    busy = next(reply for reply in replies if reply.status_code == 429)
    said(busy, 429)
    assert busy.headers["retry-after"] == "1"
    assert last.status_code == 200  # all have left again


def test_bodies_that_are_sent_slowly_keep_no_place_from_others(encoder: PictureEncoder, engine: FakeEngine) -> None:
    app = create_app(encoder, "http://engine", transport=engine, limits=Limits(queue=2))

    async def send() -> int:
        stuck = asyncio.Event()

        async def slowly() -> Any:
            yield b"{"
            await stuck.wait()

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front") as client:
            path = "/v1/chat/completions"
            slow = [asyncio.ensure_future(client.post(path, content=slowly())) for _ in range(4)]
            await asyncio.sleep(0.05)
            status = (await client.post(path, json=chat(HELLO))).status_code
            for each in slow:
                each.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
            return status

    assert asyncio.run(send()) == 200


def test_a_busy_engine_is_well() -> None:
    """As many connections as are let in at once, and a few for what is asked beside."""
    upstream = Upstream("http://engine", api_key=None, limits=Limits(queue=3), metrics=EncodeMetrics(lambda: 0.0))
    pool = upstream._client._transport._pool  # type: ignore[attr-defined]
    assert pool._max_connections > 3


def test_the_key(ask: Ask, engine: FakeEngine) -> None:
    said(ask(chat(HELLO), api_key="secret"), 401)
    said(ask(chat(HELLO), api_key="secret", key="geheim"), 401)
    said(ask(path="/v1/models", api_key="secret"), 401)
    assert engine.sent == []
    assert ask(chat(HELLO), api_key="secret", key="secret").status_code == 200
    assert ask(path="/health", api_key="secret").status_code == 200


def test_other_addresses(ask: Ask) -> None:
    assert ask(path="/v1/models").json()["data"] == [{"id": "m"}]
    said(ask(path="/v1/nothing"), 404)
    said(ask(path="/v1/chat/completions"), 405)


def test_embeddings_that_are_no_numbers_do_not_reach_the_engine(demo: tuple[Any, Any], engine: FakeEngine) -> None:
    model = copy.deepcopy(demo[0])
    encoder = PictureEncoder(model, demo[1], method=get_method("trim"))
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.bias[3] = torch.nan
    app = create_app(encoder, "http://engine", transport=engine)

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front") as client:
            return await client.post("/v1/chat/completions", json=chat(user(picture(0), words("a"))))

    assert "not finite" in said(asyncio.run(send()), 500)
    assert engine.sent == []
    with pytest.raises(ModelError, match="not finite"):
        PictureEncoder(model, demo[1], method=get_method("trim"))


@pytest.mark.parametrize(("make", "why"), [(qwen2_5_vl, "M-RoPE"), (gemma3, "both directions")])
def test_language_models_that_treat_image_tokens_otherwise_are_refused(make: Callable[[], Any], why: str) -> None:
    model = make()
    model = model[0] if isinstance(model, tuple) else model
    with pytest.raises(UnsupportedError, match=why) as refused:
        check_positions(model, family_of(model))
    assert "\n" not in str(refused.value)


class Expanding:
    """The demo's processor with other text around or between the placeholders of a picture."""

    def __init__(self, processor: Any, expand: Callable[[int, int], str]) -> None:
        self._processor, self._expand = processor, expand
        self.tokenizer = processor.tokenizer

    def __call__(self, images: Any, text: list[str], **options: Any) -> Any:
        (picture,) = images
        options.pop("verbose"), options.pop("return_tensors")
        expanded = [each.replace("<image>", self._expand(*picture.size)) for each in text]
        return self.tokenizer(expanded, return_tensors="pt", **options)


def test_what_a_processor_writes_around_a_picture(encoder: PictureEncoder, demo: tuple[Any, Any]) -> None:
    def frame(expand: Callable[[int, int], str]) -> tuple[str, str]:
        return placeholder_frame(Expanding(demo[1], expand), encoder.render, demo[0].config.image_token_id)

    assert encoder.frame == ("", "")
    assert frame(lambda width, height: "<s>" + "<image>" * width + "</s>") == ("<s>", "</s>")
    for expand in (
        lambda width, height: "<image></s><image>",
        lambda width, height: "<image>" + "</s>" * (width > height),
        lambda width, height: "",
    ):
        with pytest.raises(UnsupportedError, match="between the tokens"):
            frame(expand)


def test_metrics_count_what_went_through(encoder: PictureEncoder, engine: FakeEngine) -> None:
    app = create_app(encoder, "http://engine", transport=engine)

    async def send() -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front") as client:
            for _ in range(2):
                await client.post("/v1/chat/completions", json=chat(user(picture(0), words("a")), trim={"budget": 64}))
            await client.post("/v1/chat/completions", json={})
            return (await client.get("/metrics")).text

    lines = dict(line.rsplit(" ", 1) for line in asyncio.run(send()).splitlines() if not line.startswith("#"))
    assert lines['trimkit_requests_total{status="200"}'] == "2.0"
    assert lines['trimkit_requests_total{status="400"}'] == "1.0"
    assert lines["trimkit_image_tokens_before_total"] == "1152.0"
    assert lines["trimkit_image_tokens_after_total"] == "128.0"
    assert lines["trimkit_requests_inside"] == "0.0"
