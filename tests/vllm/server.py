"""A real vLLM server in its own processes, and clients that ask it."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

START = 900  # seconds: forty on a free machine, minutes on a busy one
ENVIRONMENT = {  # how vLLM runs on a CPU; nothing that trimkit reads
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "2",
}


class Server:
    """One that runs."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port, self.process, self.log = port, process, log

    def post(self, path: str, body: dict[str, Any], seconds: float = 600) -> tuple[int, dict[str, Any]]:
        """Status and answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def raw(self, path: str, body: dict[str, Any]) -> str:
        """What is answered, as it is."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return str(answer.read().decode())

    def ids(self, body: dict[str, Any]) -> list[int]:
        """The reply's token ids."""
        status, answer = self.post("/v1/chat/completions", body)
        assert status == 200, (status, answer)
        return list(answer["choices"][0]["token_ids"])

    def all_ids(self, bodies: Sequence[dict[str, Any]], clients: int) -> list[list[int]]:
        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(self.ids, bodies))

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def serving(
    model: Path, log: Path, *flags: str, launcher: str = "vllm.entrypoints.openai.api_server", expect: bool = True
) -> Iterator[Server]:
    """A server of ``model`` from its start to its end. With ``expect`` False it is to end by itself."""
    port = free_port()
    command = [sys.executable, "-m", launcher, "--model", str(model), "--served-model-name", "m", "--port", str(port)]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--trust-request-mm-kwargs", *flags]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **ENVIRONMENT}, start_new_session=True
        )
    server = Server(port, process, log)
    try:
        if expect:
            wait_for(server)
        else:
            process.wait(START)
        yield server
    finally:
        stop(process)


def wait_for(server: Server) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server has ended:\n{server.said()[-4000:]}")
        try:
            server.text("/health")
            return
        except OSError:
            time.sleep(1)
    raise RuntimeError(f"the server does not answer:\n{server.said()[-4000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """The process and those that it has started, which share its group."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            continue


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def picture_url(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
