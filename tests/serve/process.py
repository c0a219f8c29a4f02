"""The real server in a process of its own, and what it costs in memory."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Running", "running"]


@dataclass
class Running:
    """A server process: its address (``http://host:port``), and what it has written to stderr."""

    process: subprocess.Popen[str]
    address: str = ""
    lines: list[str] = field(default_factory=list)
    seconds_to_start: float = 0.0

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    @property
    def resident_mib(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0


@contextlib.contextmanager
def running(*options: str, model: str = "demo", timeout: float = 300.0) -> Iterator[Running]:
    """``trimkit serve MODEL --engine transformers --port 0 OPTIONS``, from its first answer until the block ends."""
    words = [sys.executable, "-m", "trimkit", "serve", model, "--engine", "transformers", "--port", "0", *options]
    began = time.monotonic()
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    server = Running(process)
    ready = threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            server.lines.append(line.rstrip())
            found = re.search(r"at (http://\S+)/v1$", line.rstrip())
            if found:
                server.address = found[1]
                server.seconds_to_start = time.monotonic() - began
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        if not ready.wait(timeout) or not server.address:
            raise RuntimeError(f"the server did not start: {server.lines[-5:]}")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(10)
        if process.stderr is not None:
            process.stderr.close()
