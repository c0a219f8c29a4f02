"""``trimkit batch`` and ``trimkit encode-server`` on the command line."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trimkit.cli import run


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._reply(200, {"data": [{"id": "listed"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"][-1]["text"]
        if question == "bad":
            self._reply(400, {"error": {"message": "refused"}})
            return
        said = f"{body['model']} {body['max_tokens']} {body.get('mm_processor_kwargs')} {question}"
        self._reply(200, {"choices": [{"message": {"content": said}, "finish_reason": "stop"}]})

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_address[1]}"
    found.shutdown()
    found.server_close()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"question": question}) for question in ("a", "bad", "c")) + "\n")
    return path


def test_batch(server: str, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = rows.with_name("out.jsonl")
    words = ["batch", str(rows), "--server", server, "--server", f"{server}/v1/", "-o", str(out), "--budget", "64"]
    assert run([*words, "--max-new-tokens", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(out), "rows": 3, "errors": 1, "reused": 0}
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    reduced = {"trim": {"budget": 64}}
    assert [line.get("answer") for line in lines] == [f"listed 5 {reduced} a", None, f"listed 5 {reduced} c"]
    assert run([*words, "--max-new-tokens", "5"]) == 2
    assert "there already" in capsys.readouterr().err
    assert run([*words, "--max-new-tokens", "5", "--retry-errors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reused"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["batch", "gone.jsonl", "--server", "http://h", "-o", "o.jsonl"], "no data set"),
        (["batch", "{rows}", "--server", "h:8000", "-o", "o.jsonl"], "is no address"),
        (["batch", "{rows}", "--server", "http://h", "-o", "{rows}"], "is that file"),
        (["batch", "{rows}", "--server", "http://h", "-o", "o.jsonl", "--method", "nobody"], "unknown method"),
        (["batch", "{rows}", "--server", "http://127.0.0.1:9", "-o", "o.jsonl"], "no server lists its models"),
        (["batch", ".", "--server", "http://h", "-o", "o.jsonl"], "holds no questions"),
        (["batch", "{rows}", "-o", "o.jsonl"], "--server"),
        (["encode-server", "demo", "--upstream", "localhost:8001", "--port", "0"], "is no address"),
        (["encode-server", "gone", "--upstream", "http://h", "--port", "0"], "no model directory"),
        (
            ["encode-server", "demo", "--upstream", "http://h", "--port", "0", "--method", "fastv"],
            "inside the language model",
        ),
        (["encode-server", "demo", "--upstream", "http://h", "--host", "192.0.2.1"], "cannot listen"),
        (["language-model", "gone", "-o", "lm"], "no model directory"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line(
    words: list[str], said: str, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(rows.parent)
    assert run([word.replace("{rows}", str(rows)) for word in words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert sorted(path.name for path in rows.parent.iterdir()) == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("httpx", ["batch", "{rows}", "--server", "http://h", "-o", "o.jsonl"]),
        ("fastapi", ["encode-server", "demo", "--upstream", "http://h"]),
    ],
)
def test_what_is_not_installed_is_named(
    missing: str, words: list[str], rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(rows.parent)
    for name in [name for name in sys.modules if name.startswith(("trimkit.serving.encode.app", f"{missing}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert run([word.replace("{rows}", str(rows)) for word in words]) == 2
    told = capsys.readouterr().err
    assert "pip install 'trimkit[serve]'" in told
    assert missing in told
