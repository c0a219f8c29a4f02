"""The Ray example with two servers of its own: every row once, in order, errors by row, and finished shards left alone."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed: run `make test-ray`")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABh6FO1AAAAABJRU5ErkJggg=="
)


class Stub(ThreadingHTTPServer):
    """Replies with the question; refuses ``bad``, and is busy at the first ``busy``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.asked: Counter[str] = Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"][-1]["text"]
        self.server.bodies.append(body)
        self.server.asked[question] += 1
        status = 400 if question == "bad" else 503 if question == "busy" and self.server.asked[question] == 1 else 200
        message = {"role": "assistant", "content": f"re {question}"}
        reply: dict[str, Any] = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": None}
        content = json.dumps(reply if status == 200 else {"error": {"message": "refused", "code": status}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def servers() -> Iterator[list[Stub]]:
    found = [Stub(), Stub()]
    yield found
    for each in found:
        each.shutdown()
        each.server_close()


def run(source: Path, out: Path, servers: list[Stub], *options: str) -> None:
    words = [word for each in servers for word in ("--server", each.url)]
    command = [
        sys.executable,
        "-m",
        "examples.batch_ray",
        str(source),
        *words,
        "--model",
        "m",
        "-o",
        str(out),
        *options,
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run(command, cwd=ROOT, env=env, check=True, timeout=1800)


def test_two_servers_answer_a_data_set(tmp_path: Path, servers: list[Stub]) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    questions = ["q0", "q1", "busy", "bad", "q4", "q5", "q6", "q7"]
    rows = [{"image": "a.png", "question": question, "id": f"row {i}"} for i, question in enumerate(questions)]
    rows[5]["image"] = "gone.png"
    source, out = tmp_path / "rows.jsonl", tmp_path / "out"
    source.write_text("\n".join(map(json.dumps, rows)) + "\n{\n")
    out.mkdir()
    (out / "part-000001.jsonl").write_text("done before\n")
    run(source, out, servers, "--shard", "6", "--in-flight", "1", "--budget", "64")
    lines = [json.loads(line) for line in (out / "part-000000.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(6))
    assert [line["id"] for line in lines] == [f"row {i}" for i in range(6)]
    assert [line.get("answer") for line in lines] == ["re q0", "re q1", "re busy", None, "re q4", None]
    assert lines[3]["error"] == {"message": "refused", "status": 400}
    assert "gone.png" in lines[5]["error"]["message"]
    assert (out / "part-000001.jsonl").read_text() == "done before\n"  # nor were its rows asked:
    asked = servers[0].asked + servers[1].asked
    assert asked == {"q0": 1, "q1": 1, "busy": 2, "bad": 1, "q4": 1}
    assert servers[0].bodies
    assert servers[1].bodies
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}}
    for body in [*servers[0].bodies, *servers[1].bodies]:  # nothing of what Arrow would have made of the parts
        assert body["messages"][0]["content"][0] == picture
        assert set(body["messages"][0]["content"][1]) == {"type", "text"}
        assert body["mm_processor_kwargs"] == {"trim": {"budget": "64"}}
