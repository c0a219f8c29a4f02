"""The server on transformers under a crowd and under hostile requests: ``python -m benchmarks.bench_serve``.

First 64 clients at once, then 2,000 mixed requests, most of them malformed, oversize, bombs, slow readers, disconnects or of
wrong types. Every good reply is compared with an attached model's. Writes ``benchmarks/results/bench_serve.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from benchmarks.cells import table
from benchmarks.records import RESULTS, Record, made_of
from benchmarks.run import provenance
from trimkit.io.text import json_text

SEED = 16


def measure(requests: int, clients: int, each: int) -> dict[str, Any]:
    """Both runs, each on a server of its own."""
    from tests.serve.hostile import LIMITS, expected_replies, hostile, many_clients
    from tests.serve.process import running

    replies = expected_replies()
    found: dict[str, Any] = {}
    with running(*LIMITS, "--max-queue", "32") as server:
        began = time.monotonic()
        crowd = asyncio.run(many_clients(server, replies, clients, each))
        found["clients"] = _plain(crowd, began) | {"alive": server.process.poll() is None}
        print(found["clients"], flush=True)
    with running(*LIMITS) as server:
        began = time.monotonic()
        mixed = asyncio.run(hostile(server, replies, requests, SEED))
        found["hostile"] = _plain(mixed, began) | {"alive": server.process.poll() is None}
    return found


def _plain(outcome: Any, began: float) -> dict[str, Any]:
    return {
        "statuses": {kind: dict(sorted(counts.items())) for kind, counts in sorted(outcome.statuses.items())},
        "server_errors": outcome.server_errors,
        "wrong_replies": len(outcome.wrong),
        "resident_mib": {str(after): round(mib, 1) for after, mib in outcome.resident.items()},
        "seconds": round(time.monotonic() - began, 1),
    }


def shown(record: Record) -> str:
    """A row a kind of request."""
    rows = []
    for run, title in (("clients", "64 clients"), ("hostile", "hostile")):
        for kind, counts in record["results"][run]["statuses"].items():
            told = ", ".join(f"{status}: {count:,}" for status, count in counts.items())
            rows.append([f"{title}: {kind}", f"{sum(counts.values()):,}", told])
    results = record["results"]
    wrong = sum(each["wrong_replies"] for each in results.values())
    memory = results["hostile"]["resident_mib"]
    held = ", ".join(f"{mib:.0f} MiB after {int(after):,}" for after, mib in memory.items() if int(after) % 500 == 0)
    errors = sum(each["server_errors"] for each in results.values())
    note = f"Server errors: {errors}. Wrong replies: {wrong}. Resident memory of the hostile run: {held}."
    return f"{table(['requests', 'number', 'status: number'], rows)}\n\n{note}"


TABLES = {"serve": made_of("bench_serve", shown, "bench_serve")}


def main() -> None:
    """Run both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--each", type=int, default=4, help="requests of each client, in turn")
    given = parser.parse_args()
    results = measure(given.requests, given.clients, given.each)
    config = {"model": "demo", "seed": SEED, **vars(given)}
    record = {"experiment": "bench_serve", "config": config, "provenance": provenance("cpu"), "results": results}
    (RESULTS / "bench_serve.json").write_text(json_text(record), encoding="utf-8")


if __name__ == "__main__":
    main()
