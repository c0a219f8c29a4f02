"""The robustness runs with their figures: ``python -m tests.serve.run`` writes benchmarks/results/serve_robustness.json."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from tests.serve.hostile import LIMITS, Outcome, expected_replies, hostile, many_clients
from tests.serve.process import running
from trimkit.io.provenance import hardware, versions
from trimkit.io.text import json_text

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "serve_robustness.json"
SEED = 16


def measure(requests: int, clients: int, each: int) -> dict[str, Any]:
    """Both runs, each on a server of its own."""
    replies = expected_replies()
    found: dict[str, Any] = {"seed": SEED, "versions": versions(), "hardware": hardware("cpu")}
    with running(*LIMITS, "--max-queue", "32") as server:
        began = time.monotonic()
        crowd = asyncio.run(many_clients(server, replies, clients, each))
        found["clients"] = {"clients": clients, "requests_each": each, **_plain(crowd, began)}
        found["seconds_to_start"] = round(server.seconds_to_start, 1)
    with running(*LIMITS) as server:
        began = time.monotonic()
        mixed = asyncio.run(hostile(server, replies, requests, SEED))
        found["hostile"] = {"requests": requests, "alive": server.process.poll() is None, **_plain(mixed, began)}
    return found


def _plain(outcome: Outcome, began: float) -> dict[str, Any]:
    return {
        "statuses": {kind: dict(sorted(counts.items())) for kind, counts in sorted(outcome.statuses.items())},
        "server_errors": outcome.server_errors,
        "wrong_replies": len(outcome.wrong),
        "resident_mib": {str(after): round(mib, 1) for after, mib in outcome.resident.items()},
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    RESULTS.write_text(json_text(measure(*(given or [2000, 64, 4]))), encoding="utf-8")
    print(RESULTS)
