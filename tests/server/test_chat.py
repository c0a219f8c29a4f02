"""What the server answers, against what ``trimkit.ask`` and an attached model say."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import torch

import trimkit
from tests.server.conftest import SAMPLES, Make, Server, chat, data_url, said, sample_url
from trimkit.ask import ask, build_chat_inputs, build_inputs
from trimkit.images import load_image


def asked(demo: tuple[Any, Any], number: int, **options: Any) -> Any:
    sample = SAMPLES[number]
    return ask(*demo, load_image(sample.path), sample.question, max_new_tokens=16, **options)


def test_a_picture_and_a_question(server: Server, demo: tuple[Any, Any]) -> None:
    for number in range(len(SAMPLES)):
        answer = server.ask(chat(said(SAMPLES[number].question, sample_url(number))))
        right = asked(demo, number)
        assert answer.status == 200
        assert answer.text.strip() == right.answer
        assert answer.body["choices"][0]["finish_reason"] == "stop"
        details = answer.body["usage"]["prompt_tokens_details"]
        assert (details["image_tokens_before"], details["image_tokens"]) == (576, right.image_tokens_kept)


@pytest.mark.parametrize("turns", ["first", "union"])
def test_other_questions_choose_where_the_request_says_so(server: Server, demo: tuple[Any, Any], turns: Any) -> None:
    model, processor = demo
    said_so = [SAMPLES[0].question, "blue", "Is there a dog?"]
    messages = [said(said_so[0], sample_url()), {"role": "assistant", "content": said_so[1]}, said(said_so[2])]
    answer = server.ask(chat(*messages, trim={"budget": 64, "turns": turns, "report": True}, max_tokens=1))
    inputs = build_chat_inputs(model, processor, [load_image(SAMPLES[0].path)], [said_so])
    with trimkit.reduce(model, processor, budget=64, turns=turns) as attached:
        model.generate(**inputs, max_new_tokens=1)
    assert answer.body["trim"]["images"][0]["indices"] == attached.report.images[0].indices.tolist()


@pytest.mark.parametrize("trim", [{"budget": 64}, {"budget": 0.1, "method": "divprune"}, {"method": "none"}])
def test_settings_of_a_request(server: Server, demo: tuple[Any, Any], trim: dict[str, Any]) -> None:
    answer = server.ask(chat(said(SAMPLES[0].question, sample_url()), trim=trim))
    right = asked(demo, 0, **trim)
    assert answer.text.strip() == right.answer
    assert answer.body["usage"]["prompt_tokens_details"]["image_tokens"] == right.image_tokens_kept


def test_a_query_of_ones_own(server: Server, demo: tuple[Any, Any]) -> None:
    model, processor = demo
    trim = {"budget": 16, "query": "the sky", "report": True}
    answer = server.ask(chat(said(SAMPLES[0].question, sample_url()), trim=trim))
    inputs = build_inputs(model, processor, [load_image(SAMPLES[0].path)], [SAMPLES[0].question])
    with trimkit.reduce(model, processor, budget=16) as attached:
        model.generate(**inputs, max_new_tokens=1, query="the sky")
    (image,) = attached.report.images
    (told,) = answer.body["trim"]["images"]
    assert told["indices"] == image.indices.tolist()
    assert told["query"] == "the sky"


def test_many_at_once_are_each_their_own(server: Server, demo: tuple[Any, Any]) -> None:
    """Mixed budgets, methods, lengths, with and without pictures, streamed and not."""
    trims: list[dict[str, Any]] = [{"budget": 64}, {"budget": 200}, {"method": "none"}, {"method": "uniform"}]
    cases = [(n % len(SAMPLES), trims[n % 4], n % 2 == 0) for n in range(12)]
    bodies = [chat(said(SAMPLES[n].question, sample_url(n)), trim=t, stream=s) for n, t, s in cases]
    bodies.append(chat({"role": "user", "content": "hello"}))
    answers = server.many(bodies)
    assert {answer.status for answer in answers} == {200}
    for (number, trim, _), answer in zip(cases, answers, strict=False):
        assert answer.text.strip() == asked(demo, number, **trim).answer


def test_two_pictures(server: Server, demo: tuple[Any, Any]) -> None:
    answer = server.ask(chat(said("Which is it?", sample_url(0), sample_url(1)), trim={"budget": 50}))
    right = ask(*demo, [load_image(SAMPLES[n].path) for n in (0, 1)], "Which is it?", budget=50, max_new_tokens=16)
    assert answer.text.strip() == right.answer
    assert answer.body["usage"]["prompt_tokens_details"]["image_tokens"] == 100


def test_two_turns(server: Server, demo: tuple[Any, Any]) -> None:
    """The second question chooses, as for an attached model."""
    model, processor = demo
    turns = [SAMPLES[0].question, "blue", "Is there a dog?"]
    messages = [said(turns[0], sample_url()), {"role": "assistant", "content": turns[1]}, said(turns[2])]
    answer = server.ask(chat(*messages, trim={"budget": 64, "report": True}))
    inputs = build_chat_inputs(model, processor, [load_image(SAMPLES[0].path)], [turns])
    with trimkit.reduce(model, processor, budget=64) as attached:
        out = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    reply = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.text.strip() == reply.strip()
    assert answer.body["trim"]["images"][0]["indices"] == attached.report.images[0].indices.tolist()


def test_the_stream_is_the_reply_in_pieces(server: Server) -> None:
    body = chat(said("Describe it.", sample_url()), ignore_eos=True, max_tokens=12)
    whole = server.ask(body)
    streamed = server.ask({**body, "stream": True, "stream_options": {"include_usage": True}})
    assert streamed.text == whole.text
    assert len(streamed.body) > 6
    assert streamed.raw.endswith("data: [DONE]\n\n")
    assert streamed.body[-1]["usage"] == whole.body["usage"]
    assert [e["choices"][0]["finish_reason"] for e in streamed.body[:-1] if e["choices"]][-1] == "length"
    assert {event["id"] for event in streamed.body} == {streamed.body[0]["id"]}


def test_lengths_and_stops(server: Server) -> None:
    body = chat(said("Describe it.", sample_url()), ignore_eos=True, max_completion_tokens=12)
    whole = server.ask(body).text
    assert server.ask({**body, "max_completion_tokens": 3}).body["usage"]["completion_tokens"] == 3
    word = re.findall(r"\w+", whole)[2]
    for stream in (False, True):
        stopped = server.ask({**body, "stop": ["never said", word], "stream": stream})
        assert stopped.text == whole[: whole.index(word)]
    assert server.ask({**body, "stop": word}).body["choices"][0]["finish_reason"] == "stop"


def test_seeds(server: Server) -> None:
    body = chat(said("Describe it.", sample_url()), ignore_eos=True, max_tokens=16, temperature=2.0)
    first = server.ask({**body, "seed": 1}).text
    others = [{**body, "seed": seed} for seed in (2, 3, 4, 1)]
    texts = [answer.text for answer in server.many(others)]
    assert texts[-1] == first, "the same seed, in other company"
    assert len(set(texts)) > 1
    greedy = server.ask({**body, "temperature": 0}).text
    assert server.ask({**body, "temperature": 2.0, "top_p": 1e-6, "seed": 5}).text == greedy
    assert server.ask({**body, "top_k": 1}).text == greedy


def test_the_report_says_what_was_kept(server: Server, demo: tuple[Any, Any]) -> None:
    wide = load_image(SAMPLES[0].path).resize((672, 336))
    body = chat(said(SAMPLES[0].question, data_url(wide)), trim={"budget": 64, "report": True})
    for answer in (server.ask(body), server.ask({**body, "stream": True})):
        trim = answer.body["trim"] if isinstance(answer.body, dict) else answer.body[0]["trim"]
        (image,) = trim["images"]
        assert (image["grid"], len(image["indices"]), image["aggregated"]) == ([24, 24], 63, True)
        assert (image["tokens_before"], image["tokens_after"]) == (576, 64)
        assert len(image["relevance"]) == 576
        assert image["box"] == pytest.approx([0.25, 0, 0.75, 1], abs=0.02), "the middle square of a wide picture"
        assert trim["method"] == "trim"
    right = ask(*demo, wide, SAMPLES[0].question, budget=64)
    assert right.report is not None
    (kept,) = right.report.images
    assert image["indices"] == kept.indices.tolist()
    assert kept.relevance is not None
    assert torch.tensor(image["relevance"]) == pytest.approx(kept.relevance, rel=1e-4)


def test_models_health_metrics(server: Server) -> None:
    assert [entry["id"] for entry in server.get("/v1/models").body["data"]] == ["demo"]
    assert server.get("/health").body == {"status": "ok"}
    server.ask(chat(said("Is it held?", sample_url())))  # its features are, from then on
    before = _metrics(server)
    server.ask(chat(said(SAMPLES[0].question, sample_url()), trim={"budget": 64}))
    server.ask(chat(said("?", "data:x")))
    after = _settled(server)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["trimkit_image_tokens_before_total"] == 576
    assert grown["trimkit_image_tokens_after_total"] == 64
    assert grown["trimkit_feature_cache_hits_total"] == 1
    assert grown["trimkit_choosing_seconds_count"] == 1
    assert grown["trimkit_fallbacks_total"] == 0
    assert grown['trimkit_requests_total{status="200"}'] == 1
    assert grown['trimkit_requests_total{status="400"}'] == 1
    assert after["trimkit_queue"] == after["trimkit_running"] == after["trimkit_requests_inside"] == 0


def _settled(server: Server) -> dict[str, float]:
    """The metrics once the engine has put the last request away, which is a moment after its reply has gone out."""
    deadline = time.monotonic() + 10.0
    while (found := _metrics(server))["trimkit_running"] and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def _metrics(server: Server) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in server.get("/metrics").raw.splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in lines}


def test_api_key_and_origins(make: Make) -> None:
    guarded = make(access={"api_key": "secret", "origins": ("https://page.example",)})
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}, {"Authorization": "Bearer é"}):
        answer = guarded.ask(chat({"role": "user", "content": "hi"}), headers=_latin(headers))
        assert (answer.status, answer.body["error"]["code"]) == (401, "invalid_api_key")
        assert guarded.get("/v1/models", headers=_latin(headers)).status == 401
    right = {"Authorization": "Bearer secret", "Origin": "https://page.example"}
    answer = guarded.ask(chat({"role": "user", "content": "hi"}), headers=right)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert guarded.get("/health").status == 200


def _latin(headers: dict[str, str]) -> dict[str, bytes]:
    return {name: value.encode("latin-1") for name, value in headers.items()}
