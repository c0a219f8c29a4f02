"""``trimkit serve`` chooses an engine and builds vLLM's command line; ``trimkit show --server`` draws what a server reports."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import trimkit.serving.server
from tests.cli.conftest import Cli
from tests.cli.test_errors import assert_one_line
from trimkit.demo import demo_model_path
from trimkit.serving.server import vllm_command


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """VLLM is installed; what would be started, and the key."""
    seen: list[Any] = []
    monkeypatch.setattr(vllm_command, "vllm_version", lambda: "0.32.0")
    monkeypatch.setattr(vllm_command, "replace_process", lambda arguments, key: seen.extend([arguments, key]))
    return seen


def _option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_vllm_is_started_where_it_is_installed(cli: Cli, started: list[Any]) -> None:
    words = (
        "--budget",
        "64",
        "--set",
        "aggregate=none",
        "--port",
        "9000",
        "--api-key",
        "secret",
        "--max-pictures",
        "3",
    )
    outcome = cli("serve", "demo", *words, "--", "--tensor-parallel-size", "2")
    assert (outcome.code, outcome.out) == (0, "")
    arguments, key = started
    assert arguments[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    assert _option(arguments, "--model") == str(demo_model_path())
    assert _option(arguments, "--served-model-name") == "demo"
    assert (_option(arguments, "--port"), _option(arguments, "--host")) == ("9000", "127.0.0.1")
    reduction = json.loads(_option(arguments, "--hf-overrides"))["trimkit"]
    assert (reduction["method"], reduction["aggregate"]) == ("trim", "none")
    assert str(reduction["budget"]) == "64"
    assert json.loads(_option(arguments, "--limit-mm-per-prompt")) == {"image": 3}
    assert "--trust-request-mm-kwargs" in arguments
    assert "--max-num-seqs" not in arguments
    assert arguments[-2:] == ["--tensor-parallel-size", "2"]
    assert key == "secret"
    assert "secret" not in outcome.err
    assert outcome.err.count("\n") == 1
    assert "by vLLM 0.32.0" in outcome.err


def test_without_settings_the_checkpoint_decides(cli: Cli, started: list[Any]) -> None:
    assert cli("serve", "owner/name", "--engine", "vllm").code == 0
    assert "--hf-overrides" not in started[0]
    assert _option(started[0], "--model") == "owner/name"


@pytest.mark.parametrize(
    "words", [("--deadline", "5"), ("--max-queue", "64"), ("--remote-pictures",), ("--device", "cpu")]
)
def test_vllm_is_not_told_of_options_that_it_does_not_have(
    cli: Cli, started: list[Any], words: tuple[str, ...]
) -> None:
    assert_one_line(cli("serve", "demo", *words), words[0], "--engine transformers")
    assert started == []


def test_what_cannot_be(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_command, "vllm_version", lambda: None)
    assert_one_line(cli("serve", "demo", "--engine", "vllm"), "trimkit[vllm]")
    assert_one_line(cli("serve", "demo", "--", "--tensor-parallel-size", "2"), "vLLM")
    assert_one_line(cli("serve", "demo", "--method", "no-such"), "no-such")
    assert_one_line(cli("serve", "demo", "--host", "no.such.host.invalid"), "cannot listen")


def test_without_the_extra_it_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_command, "vllm_version", lambda: None)
    monkeypatch.delattr(trimkit.serving.server, "process", raising=False)
    monkeypatch.delitem(sys.modules, "trimkit.serving.server.process", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert_one_line(cli("serve", "demo"), "trimkit[serve]")


TRIM = {
    "method": "trim",
    "image_tokens_before": 6,
    "image_tokens": 3,
    "images": [
        {
            "tokens_before": 6,
            "tokens_after": 3,
            "grid": [2, 3],
            "indices": [0, 4],
            "aggregated": True,
            "relevance": [0.5, 0.1, None, 0.2, 0.9, 0.0],
            "scores": None,
            "query": "What?",
            "box": [0.25, 0, 0.75, 1],
        }
    ],
}


class Fake:
    """A server that answers as it is told: ``answers`` by path, status and body; ``bodies`` is what came."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.bodies: list[Any] = []
        self.address = ""


@pytest.fixture
def fake() -> Iterator[Fake]:
    told = Fake()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            told.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer()

        def _answer(self) -> None:
            status, body = told.answers.get(self.path, (404, {}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told.address = f"http://127.0.0.1:{server.server_address[1]}"
        told.answers["/v1/models"] = (200, {"data": [{"id": "some"}]})
        choice = {"message": {"content": " a fox "}}
        told.answers["/v1/chat/completions"] = (200, {"choices": [choice], "trim": TRIM})
        yield told
        server.shutdown()


def test_the_report_of_a_server_is_drawn(cli: Cli, fake: Fake, picture: str, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    words = ("--server", f"{fake.address}/v1/", "--budget", "64", "-o", str(target), "--json")
    outcome = cli("show", picture, "What?", *words)
    assert (outcome.code, outcome.err) == (0, "")
    printed = json.loads(outcome.out)
    assert (printed["answer"], printed["image_tokens_full"], printed["image_tokens_kept"]) == ("a fox", 6, 3)
    (body,) = fake.bodies
    assert body["model"] == "some"
    assert body["mm_processor_kwargs"] == {"trim": {"budget": "64", "report": True}}
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]
    with Image.open(target) as drawn:
        assert drawn.width > 800


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        ("/v1/chat/completions", (400, {"error": {"message": "budget 0 is\nnot"}}), "400: budget 0 is not"),
        ("/v1/chat/completions", (500, b"oops"), "500"),
        ("/v1/chat/completions", (200, b"oops"), "JSON"),
        ("/v1/chat/completions", (200, {}), "no chat completion"),
        ("/v1/chat/completions", (200, {"choices": [{"message": {"content": "x"}}]}), "no report"),
        ("/v1/chat/completions", (200, {"choices": [{"message": {"content": "x"}}], "trim": {}}), "does not fit"),
        ("/v1/models", (200, {"data": []}), "names no model"),
        ("/v1/models", (401, {"error": {"message": "the API key is missing"}}), "401: the API key is missing"),
    ],
)
def test_servers_that_say_something_else(
    cli: Cli, fake: Fake, picture: str, tmp_path: Path, path: str, answer: Any, said: str
) -> None:
    fake.answers[path] = answer
    target = tmp_path / "out.png"
    assert_one_line(cli("show", picture, "What?", "--server", fake.address, "-o", str(target)), said)
    assert not target.exists()


@pytest.mark.parametrize("address", ["nothing", "http://", "ftp://host", "http://127.0.0.1:1", "http://é/"])
def test_addresses_without_a_server(cli: Cli, picture: str, tmp_path: Path, address: str) -> None:
    words = ("show", picture, "What?", "--server", address, "-o", str(tmp_path / "out.png"))
    assert_one_line(cli(*words), "http")


@pytest.mark.parametrize("words", [("--model", "demo"), ("--device", "cpu"), ("--scorer", "x"), ("--config", "x")])
def test_options_that_are_the_servers(cli: Cli, picture: str, words: tuple[str, str]) -> None:
    assert_one_line(cli("show", picture, "What?", "--server", "http://127.0.0.1:1", *words), words[0])
