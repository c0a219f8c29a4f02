"""A server that asks again where the model is unsure, and one that watches whether its promise is kept."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import trimkit
from tests.server.conftest import SAMPLES, Make, Server, chat, said, sample_url
from trimkit.calibration import DriftMonitor
from trimkit.core.confidence import Fallback
from trimkit.methods import get_method

NEVER, ALWAYS = {"threshold": -1.0}, {"threshold": 2.0}
QUESTION = SAMPLES[0].question


def ask(server: Server, fallback: Any, **more: Any) -> Any:
    trim = {"method": "focus", "budget": 16, "report": True, "fallback": fallback}
    return server.ask(chat(said(QUESTION, sample_url()), trim=trim, temperature=0, **more))


def alone(budget: Any) -> dict[str, Any]:
    return {"method": "focus", "budget": budget, "report": True}


def test_where_the_model_is_sure_nothing_is_asked_again(server: Server) -> None:
    answer = ask(server, NEVER)
    plain = server.ask(chat(said(QUESTION, sample_url()), trim=alone(16), temperature=0))
    assert answer.text == plain.text
    (rung,) = answer.body["trim"]["rungs"]
    assert (rung["budget"], rung["image_tokens"], rung["stayed"]) == ("16 tokens", 16, True)
    assert rung["seconds"] > 0
    assert "rungs" not in plain.body["trim"]


@pytest.mark.parametrize("stream", [False, True])
def test_where_it_is_unsure_all_tokens_answer(server: Server, stream: bool) -> None:
    answer = ask(
        server, {**ALWAYS, "ladder": [64]}, stream=stream, stream_options={"include_usage": True} if stream else None
    )
    full = server.ask(chat(said(QUESTION, sample_url()), trim={"method": "none"}, temperature=0))
    assert answer.text == full.text
    head, usage = (answer.body[0], answer.body[-1]["usage"]) if stream else (answer.body, answer.body["usage"])
    rungs = head["trim"]["rungs"]
    assert [(rung["budget"], rung["stayed"]) for rung in rungs] == [
        ("16 tokens", False),
        ("64 tokens", False),
        ("all tokens", True),
    ]
    assert usage["prompt_tokens_details"]["image_tokens"] == 576
    assert usage["prompt_tokens_details"]["image_tokens_tried"] == 16 + 64 + 576


def test_a_rung_of_the_ladder_has_its_own_threshold(server: Server) -> None:
    answer = ask(server, {**ALWAYS, "ladder": [64], "thresholds": [-1.0]})
    few = server.ask(chat(said(QUESTION, sample_url()), trim=alone(64), temperature=0))
    assert answer.text == few.text
    assert [rung["stayed"] for rung in answer.body["trim"]["rungs"]] == [False, True]


@pytest.mark.parametrize("tokens", [1, 3])
def test_an_answer_that_agrees_with_the_one_before_stays(server: Server, tokens: int) -> None:
    """The second rung keeps as many image tokens as the first, so it says the same."""
    rungs = {**ALWAYS, "tokens": tokens, "ladder": [16]}
    for agreed, stayed in ((-1000.0, [False, True]), (1000.0, [False, False, True])):
        answer = ask(server, {**rungs, "agreed": [agreed]})
        assert [rung["stayed"] for rung in answer.body["trim"]["rungs"]] == stayed
    few = server.ask(chat(said(QUESTION, sample_url()), trim=alone(16), temperature=0))
    assert ask(server, {**rungs, "agreed": [-1000.0]}).text == few.text


@pytest.mark.parametrize(
    ("before", "here", "over", "sure"),
    [
        ([4, 5], [4], False, True),
        ([4, 5], [4, 5], True, True),
        ([4, 5], [4], True, False),
        ([4, 5], [4, 6], False, False),
        ([4], [4, 5], False, False),
        (None, [4], True, False),
    ],
)
def test_agreement_token_by_token(before: list[int] | None, here: list[int], over: bool, sure: bool) -> None:
    from trimkit.core.confidence import Fallback
    from trimkit.serving.server.rungs import _Look

    row = SimpleNamespace(scores=lambda logits: logits)
    look = _Look(Fallback(threshold=9.0, tokens=2, ladder=("8",), agreed=(0.5,)), 1, before)
    for token in here:
        assert look.at(row, torch.eye(8)[token] * 30)  # type: ignore[arg-type]
    assert look.sure(over=over) is sure


@pytest.mark.parametrize("tokens", [1, 2, 64])
def test_a_look_ahead_says_the_same_words_once(server: Server, tokens: int) -> None:
    """Tokens that were looked at are told when the rung is decided, and the reply goes on from them."""
    plain = server.ask(
        chat(said("Describe it.", sample_url()), trim=alone(16), temperature=0, max_tokens=12, ignore_eos=True)
    )
    trim = {**alone(16), "fallback": {**NEVER, "tokens": tokens}}
    asked = chat(
        said("Describe it.", sample_url()), trim=trim, temperature=0, max_tokens=12, ignore_eos=True, stream=True
    )
    both = server.many([asked, asked])
    assert [answer.text for answer in both] == [plain.text] * 2


def test_nothing_is_sent_before_its_rung_is_decided(server: Server) -> None:
    answer = ask(server, {**ALWAYS, "tokens": 2}, stream=True)
    assert "trim" in answer.body[0]
    assert [rung["stayed"] for rung in answer.body[0]["trim"]["rungs"]] == [False, True]


def test_the_attached_model_decides_the_same(server: Server, demo: tuple[Any, Any]) -> None:
    from PIL import Image

    from trimkit.ask import ask as ask_model

    fallback = {"threshold": 0.9, "tokens": 1}
    for sample in SAMPLES[:2]:
        picture = Image.open(sample.path).convert("RGB")
        found = ask_model(
            *demo, [picture], sample.question, method="focus", budget=16, fallback=fallback, max_new_tokens=8
        )
        number = SAMPLES.index(sample)
        trim = {**alone(16), "fallback": fallback}
        served = server.ask(chat(said(sample.question, sample_url(number)), trim=trim, temperature=0, max_tokens=8))
        assert served.text.strip() == found.answer.strip()
        assert len(served.body["trim"]["rungs"]) == len(found.report.rungs)


@pytest.mark.parametrize(
    ("trim", "words"),
    [
        ({"fallback": "half"}, "fallback"),
        ({"fallback": {"tokens": 0}}, "tokens"),
        ({"fallback": {"tokens": 100}}, "limit of 64"),
        ({"method": "none", "fallback": "full"}, "keeps every token"),
        ({"fallback": {"hope": 1}}, "hope"),
    ],
)
def test_a_fallback_that_cannot_be_is_a_400(server: Server, trim: dict[str, Any], words: str) -> None:
    answer = server.ask(chat(said(QUESTION, sample_url()), trim=trim))
    assert answer.status == 400
    assert words in answer.message


def test_a_rung_without_room_is_not_tried(make: Make) -> None:
    """With all tokens the prompt and the reply are too long: the answer with few stays."""
    server = make(tokens=2048)
    model = server.app.state.chat._service.prompts
    room = model.room
    trim = {**alone(16), "fallback": ALWAYS}
    answer = server.ask(chat(said("Describe it.", sample_url()), trim=trim, temperature=0, max_tokens=room - 300))
    assert answer.status == 200
    assert [(rung["budget"], rung["stayed"]) for rung in answer.body["trim"]["rungs"]] == [("16 tokens", True)]
    plain = server.ask(chat(said("Describe it.", sample_url()), trim=alone(16), temperature=0, max_tokens=room - 300))
    assert answer.text == plain.text


def test_scores_that_are_no_numbers_are_unsure(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from trimkit.serving.server import rungs

    server = make()
    confidence = rungs.token_confidence
    monkeypatch.setattr(rungs, "token_confidence", lambda *given: confidence(*given) * float("nan"))
    answer = ask(server, NEVER)
    assert [rung["stayed"] for rung in answer.body["trim"]["rungs"]] == [False, True]


def test_a_server_of_its_own_mind(make: Make) -> None:
    server = make(method=get_method("focus", budget=16), extra={"fallback": Fallback(threshold=2.0)})
    asked: dict[str, Any] = {"report": True}
    answer = server.ask(chat(said(QUESTION, sample_url()), trim=asked))
    assert [rung["stayed"] for rung in answer.body["trim"]["rungs"]] == [False, True]
    assert (
        "rungs" not in server.ask(chat(said(QUESTION, sample_url()), trim={**asked, "fallback": "none"})).body["trim"]
    )
    assert "rungs" not in server.ask(chat(said(QUESTION, sample_url()), trim={**asked, "method": "none"})).body["trim"]
    assert server.ask(chat(said("Hello?"))).status == 200
    assert "trimkit_asked_again_total 1.0" in server.get("/metrics").raw


def checked(server: Server, count: int) -> str:
    """The metrics once so many replies were compared."""
    for _ in range(600):
        text = str(server.get("/metrics").raw)
        if f"trimkit_rechecked_total {count}.0" in text:
            return text
        time.sleep(0.05)
    raise AssertionError(text)


def test_a_promise_that_is_broken_is_told_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    monitor = DriftMonitor(0.02, 0.8)
    server = make(method=get_method("uniform", budget=1), extra={"recheck": (1.0, monitor, None)})
    others = [sample for sample in SAMPLES if _changes(server, sample)][:1]
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            before = monitor.asked
            server.ask(chat(said(others[0].question, sample_url(SAMPLES.index(others[0]))), temperature=0))
            text = checked(server, before + 1)
    assert monitor.exceeded
    assert "trimkit_promise_broken 1.0" in text
    assert sum("more replies change than the promised 2 %" in each.message for each in caplog.records) == 1


def _changes(server: Server, sample: Any) -> bool:
    url = sample_url(SAMPLES.index(sample))
    both = [
        server.ask(chat(said(sample.question, url), trim={"method": method, **more}, temperature=0.01, seed=1)).text
        for method, more in (("uniform", {"budget": 1}), ("none", {}))
    ]
    return both[0] != both[1]


def test_replies_that_say_nothing_of_the_promise_are_not_compared(make: Make) -> None:
    monitor = DriftMonitor(0.02)
    server = make(method=get_method("focus", budget=0.9), extra={"recheck": (1.0, monitor, None)})
    server.ask(chat(said("Hello?"), temperature=0))
    server.ask(chat(said(QUESTION, sample_url()), temperature=1.0))
    server.ask(chat(said(QUESTION, sample_url()), trim={"method": "none"}, temperature=0))
    server.ask(chat(said(QUESTION, sample_url()), trim={"method": "uniform", "budget": 1}, temperature=0))
    server.ask(chat(said(QUESTION, sample_url()), trim={"query": "a leaf"}, temperature=0))
    server.ask(chat(said(QUESTION, sample_url()), temperature=0))
    text = checked(server, 1)
    assert (monitor.asked, monitor.changed) == (1, 0)
    assert "trimkit_promise_broken 0.0" in text


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_no_share_of_the_replies(make: Make, share: float) -> None:
    with pytest.raises(trimkit.ConfigError, match="no share"):
        make(extra={"recheck": (share, DriftMonitor(0.02), None)})
