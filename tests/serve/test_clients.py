"""Clients as people use them, unchanged, against the real server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.hostile import SAMPLES, good, sample_url
from tests.serve.process import Running, running
from trimkit.demo import demo_model_path

pytestmark = pytest.mark.slow

QUESTION, ANSWER = SAMPLES[0].question, SAMPLES[0].answer


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running("--max-tokens", "1000") as server:
        yield server


def content() -> list[Any]:
    picture = {"type": "image_url", "image_url": {"url": sample_url(0)}}
    return [{"type": "text", "text": QUESTION}, picture]


def test_openai(server: Running) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["demo"]
    given: Any = {"model": "demo", "messages": [{"role": "user", "content": content()}], "max_tokens": 8}
    trim = {"mm_processor_kwargs": {"trim": {"budget": 64, "report": True}}}
    answer = client.chat.completions.create(**given, extra_body=trim)
    assert str(answer.choices[0].message.content).strip() == ANSWER
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details.image_tokens == 64  # type: ignore[union-attr]
    assert answer.trim["images"][0]["grid"] == [24, 24]  # type: ignore[attr-defined]
    stream = client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices).strip() == ANSWER
    assert chunks[-1].usage is not None
    with pytest.raises(openai.BadRequestError, match="n=2"):
        client.chat.completions.create(**given, n=2)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**{**given, "model": "other"})


def test_curl(server: Running, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"model": "demo", "messages": [{"role": "user", "content": content()}]}))
    done = subprocess.run(
        ["curl", "-s", f"{server.address}/v1/chat/completions", "-d", f"@{body}"], capture_output=True, check=True
    )
    assert json.loads(done.stdout)["choices"][0]["message"]["content"].strip() == ANSWER


def test_langchain(server: Running) -> None:
    langchain = pytest.importorskip("langchain_openai")
    from langchain_core.messages import HumanMessage

    chat = langchain.ChatOpenAI(base_url=f"{server.address}/v1", api_key="none", model="demo", max_retries=0)
    message = HumanMessage(content=content())
    assert str(chat.invoke([message]).content).strip() == ANSWER
    assert "".join(str(piece.content) for piece in chat.stream([message])).strip() == ANSWER


def test_guidellm(server: Running, tmp_path: Path) -> None:
    """A load generator with pictures of its own, four requests at a time."""
    pytest.importorskip("guidellm")
    written = tmp_path / "told.json"
    options = {
        "--backend": f"kind=openai_http,target={server.address},request_format=/v1/chat/completions",
        "--profile": "kind=concurrent,streams=4",
        "--constraint": "kind=max_requests,count=12",
        "--tokenizer": f"kind=hf_auto,model={demo_model_path()}",
        "--data": "kind=synthetic_image,width=336,height=336,output_tokens=8",
        "--output": f"kind=json,path={written}",
    }
    command = [sys.executable, "-m", "guidellm", "run", *(word for pair in options.items() for word in pair)]
    done = subprocess.run([*command, "--disable-console"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    totals = json.loads(written.read_text())["benchmarks"][0]["metrics"]["request_totals"]
    assert (totals["errored"], totals["incomplete"]) == (0, 0)
    assert totals["successful"] > 8  # the ends of a run do not count


def test_a_client_that_goes_away_ends_the_work(server: Running) -> None:
    body = good((0, 64), stream=True, ignore_eos=True, max_tokens=1000)
    with httpx.stream("POST", f"{server.address}/v1/chat/completions", json=body, timeout=120) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        while _gauge(server, "trimkit_running") != 1:  # it is counted a moment after its first piece
            next(pieces)
    for _ in range(200):
        if _gauge(server, "trimkit_running") == _gauge(server, "trimkit_requests_inside") == 0:
            return
        time.sleep(0.1)
    pytest.fail("the reply is still being generated")


def _gauge(server: Running, name: str) -> float:
    text = httpx.get(f"{server.address}/metrics", timeout=60).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_runs_and_takes_nothing_new(number: signal.Signals) -> None:
    body = good((0, 64), stream=True, ignore_eos=True, max_tokens=200)
    with running("--max-tokens", "1000") as server:
        with httpx.stream("POST", f"{server.address}/v1/chat/completions", json=body, timeout=300) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            server.process.send_signal(number)
            time.sleep(1)
            with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", server.port), 5):
                pass
            text += "".join(pieces)
        assert text.endswith("data: [DONE]\n\n")
        assert '"finish_reason":"length"' in text
        assert server.process.wait(60) == 0
        assert len(server.lines) == 1, server.lines


def test_a_stop_whose_grace_is_over_is_an_error_event() -> None:
    body = good((0, 64), stream=True, ignore_eos=True, max_tokens=1900)
    with running("--max-tokens", "1900", "--grace", "0.5") as server:
        with httpx.stream("POST", f"{server.address}/v1/chat/completions", json=body, timeout=300) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            server.process.terminate()
            text += "".join(pieces)
        assert "the server is being stopped" in text
        assert "[DONE]" not in text
        assert server.process.wait(60) == 0


def test_a_server_that_is_killed_leaves_no_normal_end() -> None:
    body = good((0, 64), stream=True, ignore_eos=True, max_tokens=1900)
    with running("--max-tokens", "1900") as server:
        address = f"{server.address}/v1/chat/completions"
        text = ""
        with httpx.stream("POST", address, json=body, timeout=300) as answer:
            pieces = answer.iter_text()
            text += next(pieces)
            server.process.kill()
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                text += "".join(pieces)
        assert "[DONE]" not in text


def test_an_address_in_use_is_one_line(server: Running) -> None:
    words = [sys.executable, "-m", "trimkit", "serve", "demo", "--engine", "transformers", "--port", str(server.port)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "cannot listen" in done.stderr
    assert done.stderr.count("\n") == 1
