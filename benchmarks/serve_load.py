"""Requests a second of a reduced and of a stock vLLM server, asked in turn: ``python -m benchmarks.serve_load``, in .venv-vllm.

All servers run at once on one checkpoint with random weights, and only one is asked at a time. A round asks each of them once
for each number of clients; another one begins every time. Every client asks its next question when its last one is answered.
Ratios are taken within a round. The stock server loads no plugin (vLLM's ``VLLM_PLUGINS`` is empty).

What is asked: ``new``, a picture that no server has seen, with one question; ``same``, further questions about one picture.
The latter is asked of two more servers, which find the picture in their prefix cache as stock vLLM does: ``turns="once"``
chooses once for a picture, ``turns="auto"`` for its first few questions and then once.
Writes ``benchmarks/results/serve_load.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.cells import table
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from benchmarks.serve_models import SHAPES, save_model
from tests.vllm.server import Server, picture_url, serving
from trimkit.bench.stats import orders, ratio, spread

ARMS: dict[str, dict[str, Any] | None] = {
    "stock": None,
    "reduced": {},
    "once": {"turns": "once"},
    "auto": {"turns": "auto"},
}
"""Servers by name: the plugin's settings beside the budget, or None for no plugin."""
ASKED = {"new": ("stock", "reduced"), "same": ("stock", "reduced", "once", "auto")}
"""Which servers get each kind of question."""
WORDS = ("red", "green", "dog", "sign", "left", "clock", "small", "table", "boat", "tree")


class Asker:
    """Makes requests that differ from each other, the same ones for both servers.

    Args:
        seed: of pictures and questions.
        shape: what is asked about, see ``serve_models``.
        tokens: to be answered.
    """

    def __init__(self, seed: int, shape: str, tokens: int) -> None:
        self._draw, self._size, self._tokens = np.random.default_rng(seed), SHAPES[shape].picture, tokens
        self._same, self.per_client = self._picture(), SHAPES[shape].per_client

    def batch(self, kind: str, count: int) -> list[bytes]:
        """``count`` requests of one kind."""
        return [self._request(self._same if kind == "same" else self._picture()) for _ in range(count)]

    def _picture(self) -> str:
        width, height = self._size
        coarse = self._draw.integers(0, 256, (height // 28, width // 28, 3), dtype=np.uint8)
        return picture_url(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))

    def _request(self, url: str) -> bytes:
        said = " ".join(self._draw.choice(WORDS, 6))
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": f"What of {said}?"}]
        body = {"model": "m", "messages": [{"role": "user", "content": content}], "stream": True}
        return json.dumps({**body, "max_tokens": self._tokens, "temperature": 0, "ignore_eos": True}).encode()


def ask(server: Server, request: bytes) -> float:
    """Seconds to the first token; returns when the answer has ended.

    Raises:
        RuntimeError: the answer does not end as an answer does.
    """
    started, first, ended = time.perf_counter(), None, False
    address = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    with urllib.request.urlopen(
        urllib.request.Request(address, request, {"Content-Type": "application/json"}), timeout=900
    ) as answer:
        for line in answer:
            if line.startswith(b"data: {") and first is None:
                first = time.perf_counter() - started
            ended = ended or line.startswith(b"data: [DONE]")
    if first is None or not ended:
        raise RuntimeError("a server has broken off an answer")
    return first


def load(server: Server, requests: list[bytes], clients: int) -> dict[str, Any]:
    """Requests a second and times to the first token."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        first = list(pool.map(lambda request: ask(server, request), requests))
    return {"per_second": len(requests) / (time.perf_counter() - started), "ttft": first}


@contextmanager
def all_servers(folder: Path, shape: str, flags: list[str], kinds: list[str]) -> Iterator[dict[str, Server]]:
    """Those that the kinds are asked of, on one checkpoint."""
    checkpoint = folder / shape
    save_model(shape, checkpoint)
    wanted = [name for name in ARMS if any(name in ASKED[kind] for kind in kinds)]
    with ExitStack() as stack:
        yield {name: stack.enter_context(one_server(checkpoint, folder, shape, name, flags)) for name in wanted}


@contextmanager
def one_server(checkpoint: Path, folder: Path, shape: str, name: str, flags: list[str]) -> Iterator[Server]:
    """The server called ``name``."""
    own, before = ARMS[name], os.environ.get("VLLM_PLUGINS")
    if own is None:
        os.environ["VLLM_PLUGINS"] = ""
    else:
        budget = {"trimkit": {"method": "trim", "budget": SHAPES[shape].budget, **own}}
        flags = [*flags, "--hf-overrides", json.dumps(budget)]
    with serving(checkpoint, folder / f"{shape}-{name}.log", *flags) as server:
        os.environ.pop("VLLM_PLUGINS", None)
        if before is not None:
            os.environ["VLLM_PLUGINS"] = before
        yield server


def measure(
    servers: dict[str, Server], asker: Asker, kind: str, clients: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Rounds of one kind of request with so many clients."""
    count = max(given.requests, asker.per_client * clients)
    names = ASKED[kind]
    seen: list[list[dict[str, Any]]] = [[] for _ in names]
    for name in names:  # what is loaded or traced on first use
        load(servers[name], asker.batch(kind, clients), clients)
    for turn in orders(len(names), given.rounds):
        requests = asker.batch(kind, count)
        for arm in turn:
            seen[arm].append(load(servers[names[arm]], requests, clients))
    rates = [[each["per_second"] for each in rounds] for rounds in seen]
    ratios = {name: ratio(rate, rates[0]) for name, rate in zip(names[1:], rates[1:], strict=True)}
    record: dict[str, Any] = {"kind": kind, "clients": clients, "requests": count, "ratios": ratios}
    for name, rounds, rate in zip(names, seen, rates, strict=True):
        first = sorted(seconds for each in rounds for seconds in each["ttft"])
        p95 = first[min(len(first) - 1, int(0.95 * len(first)))]
        record[name] = {"per_second": spread(rate), "ttft_p50": statistics.median(first), "ttft_p95": p95}
    return record


def shown(record: Record) -> str:
    """A row a shape, kind and number of clients; a pair of columns a reduced server."""
    rows = []
    for each in record["results"]:
        shape = SHAPES[each["shape"]]
        stock = each["stock"]
        row = [
            f"{shape.full} → {shape.budget}",
            each["kind"],
            str(each["clients"]),
            f"{stock['per_second']['median']:.2f}",
        ]
        row.append(_first_token(stock))
        for name in ("reduced", "once", "auto"):
            row += [_times(each["ratios"][name]), _first_token(each[name])] if name in each else ["", ""]
        rows.append(row)
    head = ["image tokens", "asked", "clients", "stock: requests/s", "TTFT p50, p95 (s)", "reduced: times stock (95 %)"]
    for name in ("once", "auto"):
        head += ["TTFT p50, p95 (s)", f'`turns="{name}"`: times stock (95 %)']
    head.append("TTFT p50, p95 (s)")
    config = record["config"]
    note = f"{config['rounds']} rounds of at least {config['requests']} requests, {config['tokens']} tokens answered."
    return f"{table(head, rows)}\n\n{note}"


def _times(found: dict[str, Any]) -> str:
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _first_token(found: dict[str, Any]) -> str:
    return f"{found['ttft_p50']:.2f}, {found['ttft_p95']:.2f}"


TABLES = {"serve-load": made_of("serve_load", shown, "serve_load")}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--kinds", default="new,same")
    parser.add_argument("--clients", default="1,4,16,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--requests", type=int, default=8, help="a round, at least; or as many for each client as the shape says"
    )
    parser.add_argument("--tokens", type=int, default=4, help="to be answered")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "serve_load.json")
    given = parser.parse_args()
    config = {name: value for name, value in vars(given).items() if name != "out"}
    record: dict[str, Any] = {"experiment": "serve_load", "config": config, "provenance": provenance(), "results": []}
    with tempfile.TemporaryDirectory() as folder:
        for shape in given.shapes.split(","):
            flags, kinds = ["--max-model-len", str(SHAPES[shape].context)], given.kinds.split(",")
            with all_servers(Path(folder), shape, flags, kinds) as servers:
                for kind in kinds:
                    for clients in map(int, given.clients.split(",")):
                        asker = Asker(given.seed + clients, shape, given.tokens)
                        found = {"shape": shape, **measure(servers, asker, kind, clients, given)}
                        record["results"].append(found)
                        print(json.dumps(found), flush=True)
                        save(record, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
