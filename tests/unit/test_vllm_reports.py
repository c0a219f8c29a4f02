"""Reports with vLLM, without vLLM: the middleware, the number that travels, what the engine leaves, and what comes back."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.test_vllm_engine import Broken, Model, pixels, rows
from trimkit.demo import load_demo
from trimkit.errors import ConfigError
from trimkit.methods import get_method
from trimkit.serving.report_json import report_of
from trimkit.serving.vllm import engine_counts, engine_reports, reports
from trimkit.serving.vllm.engine_reports import asked_number, leave_report, new_number, take_reports
from trimkit.serving.vllm.reports import ReportMiddleware, expect, numbered
from trimkit.serving.vllm.seen import Seen
from trimkit.serving.vllm.settings import FIELD, Reduction, ServerSettings, pack, unpack

NUMBER = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(engine_counts.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / f"trimkit-vllm-{os.getuid()}"


def wanting(report: Any) -> bytes:
    return json.dumps({"model": "m", "mm_processor_kwargs": {"trim": {"budget": 4, "report": report}}}).encode()


def test_a_number_takes_the_place_of_a_wish() -> None:
    body, number = numbered(wanting(True))
    assert asked_number(number) == number
    assert json.loads(body)["mm_processor_kwargs"]["trim"] == {"budget": 4, "report": number}


@pytest.mark.parametrize(
    "body", [b'{"report"', b'["report"]', b'{"report": 1}', wanting(False), wanting(1), wanting(NUMBER), b"\xff"]
)
def test_what_is_no_wish_stays_as_it_is(body: bytes) -> None:
    assert numbered(body) == (body, None)


def test_settings_take_a_number_and_refuse_a_wish_that_nobody_has_numbered(tmp_path: Path) -> None:
    settings = ServerSettings.read(str(tmp_path), None)
    own = new_number()
    assert settings.request({"report": own}).report == own
    assert settings.request({"report": False}).report is None
    with pytest.raises(ConfigError, match="--middleware"):
        settings.request({"report": True})
    for wrong in ("../x", NUMBER, own.upper(), 5, [], NUMBER + "0"):
        with pytest.raises(ConfigError, match="true or false"):
            settings.request({"report": wrong})


def test_only_a_wanted_report_changes_what_is_hashed() -> None:
    plain = Reduction(get_method("trim", budget=4), "x")
    named = Reduction(plain.method, "x", f"{NUMBER}-0")
    assert "report" not in pack(plain)
    assert unpack(pack(named)) == named != unpack(pack(plain))


def reductions(budget: Any) -> list[Reduction]:
    method = get_method("trim", budget=budget, aggregate="none")
    return [Reduction(method, "x", f"{NUMBER}-{number}") for number in range(2)]


@pytest.mark.parametrize(("budget", "kept"), [(4, [6, 7, 8, 9]), (1.0, list(range(10)))])
def test_the_engine_leaves_what_it_keeps(budget: Any, kept: list[int]) -> None:
    model = Model()
    model._reducing.counting = True
    for held in (False, True):
        model.embed_multimodal(pixel_values=pixels(2), **{FIELD: rows(reductions(budget))})
        pictures = take_reports(NUMBER)
        assert [picture["images"][0]["indices"] for picture in pictures] == [kept] * 2
        assert [picture["images"][0]["cached"] for picture in pictures] == [held] * 2
        assert [(picture["method"], picture["fallback"]) for picture in pictures] == [("trim", False)] * 2
        assert take_reports(NUMBER) == []


def test_a_choice_that_fails_is_told() -> None:
    model = Model(Broken())
    model._reducing.counting = True
    model.embed_multimodal(pixel_values=pixels(1), **{FIELD: rows(reductions(4)[:1])})
    (picture,) = take_reports(NUMBER)
    assert picture["fallback"] is True
    assert picture["images"][0]["indices"] == [0, 3, 6, 9]


def test_reports_that_nobody_takes_go_with_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_report(f"{NUMBER}-0", {})
    old = time.time() - 3600
    os.utime(folder / f"report-{NUMBER}-0.json", (old, old))
    take_reports("0" * 32)
    assert list(folder.iterdir()) == []
    leave_report(f"{NUMBER}-0", {})
    os.utime(folder / f"report-{NUMBER}-0.json", (old, old))
    monkeypatch.setattr(engine_reports, "_looked", [-1e9])
    leave_report(f"{NUMBER}-1", {})
    assert [path.name for path in folder.iterdir()] == [f"report-{NUMBER}-1.json"]


def image(count: int) -> dict[str, Any]:
    told = {"tokens_before": 10, "tokens_after": count, "grid": [2, 5], "indices": list(range(count)), "query": "x"}
    return {**told, "aggregated": False, "relevance": None, "scores": None, "note": None, "cached": False, "box": None}


async def respond(stream: bool, status: int, scope: Any, receive: Any, send: Any) -> None:
    """An application: it leaves a report as the engine would, and answers in pieces."""
    asked = json.loads((await receive())["body"])
    number = asked["mm_processor_kwargs"]["trim"]["report"]
    if asked_number(number):
        expect(number, lambda report: [(0.25, 0.0, 0.75, 1.0)] * len(report.images))
        for at in (0, 1):
            leave_report(f"{number}-{at}", {"method": "trim", "fallback": False, "images": [image(3 + at)]})
    kind = b"text/event-stream" if stream else b"application/json"
    pieces = [b'data: {"a"', b': 1}\n\ndata: {"b": 2}\n\n', b"data: [DONE]\n\n"] if stream else [b'{"a"', b": 1}"]
    length = [] if stream else [(b"content-length", b"8")]
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *length]})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def ask(
    body: bytes, *, stream: bool = False, status: int = 200, path: str = "/v1/chat/completions"
) -> tuple[Any, bytes]:
    """Headers and body of what comes back; the request arrives in two pieces."""
    given = iter([(body[:9], True), (body[9:], False)])
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(stream, status, scope, receive, send)

    async def receive() -> dict[str, Any]:
        piece, more = next(given)
        return {"type": "http.request", "body": piece, "more_body": more}

    async def whole() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"content-length", str(len(body)).encode())]}
    wanted = json.loads(body)["mm_processor_kwargs"]["trim"]["report"] is True
    asyncio.run(ReportMiddleware(app)(scope, receive if wanted else whole, send))
    return dict(sent[0]["headers"]), b"".join(each["body"] for each in sent[1:])


def test_a_whole_response_has_the_report() -> None:
    headers, body = ask(wanting(True))
    assert headers[b"content-length"] == str(len(body)).encode()
    content = json.loads(body)
    assert content["a"] == 1
    trim = content["trim"]
    assert (trim["method"], trim["image_tokens_before"], trim["image_tokens"], trim["fallback"]) == (
        "trim",
        20,
        7,
        False,
    )
    assert [each["box"] for each in trim["images"]] == [[0.25, 0.0, 0.75, 1.0]] * 2
    assert [len(each.indices) for each in report_of(trim).images] == [3, 4]  # what trimkit show reads


def test_the_first_event_of_a_stream_has_the_report() -> None:
    _, body = ask(wanting(True), stream=True)
    first, second, done, rest = body.split(b"\n\n")
    assert json.loads(first.removeprefix(b"data: "))["trim"]["image_tokens"] == 7
    assert (second, done, rest) == (b'data: {"b": 2}', b"data: [DONE]", b"")


@pytest.mark.parametrize("stream", [False, True])
def test_other_responses_stay_as_they_are(stream: bool) -> None:
    for options in ({"status": 400}, {"path": "/v1/completions"}):
        assert b"trim" not in ask(wanting(False), stream=stream, **options)[1]
    assert b"trim" not in ask(wanting(False), stream=stream)[1]
    assert b"trim" not in ask(wanting(True), stream=stream, status=400)[1]


def test_without_a_picture_the_report_is_empty() -> None:
    assert reports.report_for("1" * 32)["images"] == []


class Items:
    """Pictures of a request, as vLLM holds them."""

    def __init__(self, *sizes: tuple[int, int]) -> None:
        self._sizes = sizes

    def get_count(self) -> int:
        return len(self._sizes)

    def get_image_size(self, number: int) -> Any:
        width, height = self._sizes[number]
        return SimpleNamespace(width=width, height=height)


def test_the_part_of_a_picture_that_the_model_sees_is_found_without_its_weights() -> None:
    model, processor = load_demo()
    seen = Seen(SimpleNamespace(get_hf_config=lambda: model.config, get_hf_processor=lambda: processor))
    told = {**image(3), "tokens_before": 576, "grid": [24, 24]}
    report = report_of({"method": "trim", "images": [told, told]})
    square, wide = seen.boxes_of({"image": Items((336, 336), (672, 336))})(report)
    assert square == pytest.approx((0, 0, 1, 1), abs=0.01)
    assert wide == pytest.approx((0.25, 0, 0.75, 1), abs=0.01)  # the middle, which CLIP's processor cuts out
    assert seen.boxes_of({"image": Items((336, 336))})(report) == [None, None]
    assert seen.boxes_of({"image": object()})(report) == [None, None]
