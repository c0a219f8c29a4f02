"""Thousands of requests of every kind that a public server gets, the good ones among them compared with an attached model."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import socket
import struct
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.serve.process import Running
from trimkit.demo import sample_images

__all__ = ["LIMITS", "Outcome", "expected_replies", "hostile", "many_clients"]

LIMITS = ("--max-body", "4", "--max-pixels", "4000000", "--max-tokens", "64", "--deadline", "600")
TOKENS = 12
BUDGETS = (32, 64, 121)
SAMPLES = list(sample_images().values())
Case = tuple[int, int]


@dataclass
class Outcome:
    """What came of a run: statuses by kind, wrong replies, memory after some requests."""

    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    resident: dict[int, float] = field(default_factory=dict)

    def count(self, kind: str, status: Any) -> None:
        self.statuses.setdefault(kind, Counter())[str(status)] += 1

    @property
    def server_errors(self) -> int:
        return sum(n for each in self.statuses.values() for status, n in each.items() if status.startswith("5"))


def expected_replies() -> dict[Case, str]:
    """What an attached model says when it may not stop early, by sample and budget."""
    import trimkit
    from trimkit.ask import build_inputs
    from trimkit.demo import load_demo
    from trimkit.images import load_image

    model, processor = load_demo()
    found = {}
    for number, sample in enumerate(SAMPLES):
        inputs = build_inputs(model, processor, [load_image(sample.path)], [sample.question])
        for budget in BUDGETS:
            with trimkit.reduce(model, processor, budget=budget):
                out = model.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
            found[number, budget] = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return found


def good(case: Case, **more: Any) -> dict[str, Any]:
    """A request that has a right answer."""
    number, budget = case
    given = {"ignore_eos": True, **more}
    return asked(SAMPLES[number].question, sample_url(number), trim={"budget": budget}, **given)


def asked(question: str, url: str, trim: Any = None, **more: Any) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    given = {} if trim is None else {"mm_processor_kwargs": {"trim": trim}}
    return {"model": "demo", "max_tokens": TOKENS, "messages": [{"role": "user", "content": content}], **given, **more}


def sample_url(number: int) -> str:
    return "data:image/png;base64," + base64.b64encode(SAMPLES[number].path.read_bytes()).decode()


def _url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    held = io.BytesIO()
    picture.save(held, kind, **options)
    return held.getvalue()


_NAN = _url(_saved(Image.fromarray(np.full((40, 40), np.nan, dtype=np.float32)), "TIFF"))
_BOMBS = [
    _url(_png(60_000, 60_000, zlib.compress(b"\0" * 1000))),
    _url(_png(3_000, 3_000, zlib.compress(bytes(3_000 * 9_001)))),
    _url(_png(1_900, 1_900, zlib.compress(b"\0" * 100))),
    _url(_saved(Image.new("1", (9_000, 9_000)), "TIFF", compression="group4")),
]
_VALUES: list[Any] = [None, True, -1, 0, 1e308, 2**62, "", "x", "\ud800", [], [[]], {}, {"a": {"b": 1}}, ["x"] * 40]
_PATHS = ["model", "messages", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "n", "stream", "tools"]
_PATHS += [
    "stream_options",
    "mm_processor_kwargs",
    "response_format",
    "logprobs",
    "min_tokens",
    "unknown",
    "messages.0",
]
_PATHS += ["messages.0.role", "messages.0.content", "messages.0.content.0", "messages.0.content.0.type"]
_PATHS += ["messages.0.content.0.image_url", "messages.0.content.0.image_url.url", "messages.0.content.1.text"]
_PATHS += [f"mm_processor_kwargs.trim.{name}" for name in ("budget", "method", "query", "report", "profile", "unknown")]


def _wrong_type(chance: random.Random) -> dict[str, Any]:
    """A good request with a strange value somewhere."""
    body: Any = good((0, 64))
    *way, last = chance.choice(_PATHS).split(".")
    at = body
    for name in way:
        at = at[int(name)] if isinstance(at, list) else at[name]
    if isinstance(at, list):
        at[int(last)] = chance.choice(_VALUES)
    else:
        at[last] = chance.choice(_VALUES)
    return dict(body)


def _malformed(chance: random.Random) -> bytes:
    whole = json.dumps(good((0, 64))).encode()
    cut = whole[: chance.randrange(len(whole))]
    noise = bytes(chance.randrange(256) for _ in range(chance.randrange(200)))
    return chance.choice([cut, noise, b"[" * 50_000, b'{"a":' * 5_000, b"", cut + noise, b"null", b'"x"'])


async def hostile(server: Running, replies: dict[Case, str], requests: int, seed: int, clients: int = 16) -> Outcome:
    """``requests`` requests by ``clients`` at a time."""
    outcome, chance = Outcome(), random.Random(seed)
    kinds = {"good": 40, "malformed": 10, "wrong type": 15, "oversize": 3, "bomb": 7, "no numbers": 5}
    kinds |= {"slow reader": 5, "disconnect": 10, "half a body": 5}
    drawn = chance.choices(list(kinds), list(kinds.values()), k=requests)
    work = iter([(kind, random.Random(chance.random())) for kind in drawn])
    done = 0
    limits = httpx.Limits(max_connections=clients + 4)
    async with httpx.AsyncClient(base_url=server.address, timeout=900, limits=limits) as client:

        async def worker() -> None:
            nonlocal done
            for kind, own in work:
                await _one(client, server, kind, own, replies, outcome)
                done += 1
                if done % 250 == 0:
                    outcome.resident[done] = server.resident_mib
                    print(done, f"{server.resident_mib:.0f} MiB", outcome.wrong[-1:], flush=True)

        await asyncio.gather(*(worker() for _ in range(clients)))
    outcome.resident[done] = server.resident_mib
    return outcome


async def _one(
    client: httpx.AsyncClient,
    server: Running,
    kind: str,
    chance: random.Random,
    replies: dict[Case, str],
    outcome: Outcome,
) -> None:
    if kind == "good":
        await _good(client, chance, replies, outcome)
    elif kind in ("slow reader", "disconnect", "half a body"):
        outcome.count(kind, await asyncio.to_thread(_by_hand, server.port, kind, chance))
    else:
        outcome.count(kind, await _post(client, _body(kind, chance)))


def _body(kind: str, chance: random.Random) -> bytes:
    if kind == "malformed":
        return _malformed(chance)
    if kind == "oversize":
        return json.dumps(asked("?", "data:image/png;base64," + "A" * chance.choice([5, 9, 30]) * 2**20)).encode()
    if kind == "wrong type":
        return json.dumps(_wrong_type(chance)).encode()
    return json.dumps(asked("?", _NAN if kind == "no numbers" else chance.choice(_BOMBS))).encode()


async def _post(client: httpx.AsyncClient, body: bytes) -> int | str:
    try:
        answer = await client.post("/v1/chat/completions", content=body)
    except httpx.TransportError as error:
        return type(error).__name__
    if answer.status_code >= 400 and set(answer.json()["error"]) != {"message", "type", "param", "code"}:
        return "no error object"
    return answer.status_code


async def _good(client: httpx.AsyncClient, chance: random.Random, replies: dict[Case, str], outcome: Outcome) -> None:
    case = chance.choice(list(replies))
    stream = chance.random() < 0.5
    body = json.dumps(good(case, stream=stream)).encode()
    try:
        while (answer := await client.post("/v1/chat/completions", content=body)).status_code == 429:
            await asyncio.sleep(0.5)
    except httpx.TransportError as error:
        outcome.count("good", type(error).__name__)
        outcome.wrong.append(repr(error))
        return
    outcome.count("good", answer.status_code)
    if answer.status_code != 200:
        outcome.wrong.append(answer.text[:200])
        return
    text = _streamed(answer.text) if stream else answer.json()["choices"][0]["message"]["content"]
    if text.strip() != replies[case].strip():
        outcome.wrong.append(f"{case}: {text!r} for {replies[case]!r}")


def _streamed(text: str) -> str:
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    if events[-1] != "[DONE]":
        return "no end"
    return "".join(c["delta"].get("content", "") for e in events[:-1] for c in json.loads(e)["choices"])


def _by_hand(port: int, kind: str, chance: random.Random) -> str:
    """A connection that behaves badly; always the same word, since there is nothing to be told."""
    body = json.dumps(good((0, 64), stream=True, ignore_eos=True, max_tokens=48)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(120)
        connection.connect(("127.0.0.1", port))
        try:
            if kind == "half a body":
                connection.sendall(head + body[: chance.randrange(len(body))])
            else:
                connection.sendall(head + body)
                for _ in range(chance.randrange(1, 12) if kind == "slow reader" else chance.randrange(2)):
                    connection.recv(64)
                    time.sleep(0.1)
            if chance.random() < 0.5:  # a reset, not an orderly end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError as error:
            return type(error).__name__
    return "closed"


async def many_clients(server: Running, replies: dict[Case, str], clients: int, each: int) -> Outcome:
    """``clients`` at once, each with some requests in turn, taking a 429 for an answer."""
    outcome = Outcome()
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=server.address, timeout=900, limits=limits) as client:

        async def one(number: int) -> None:
            chance = random.Random(number)
            for _ in range(each):
                case = chance.choice(list(replies))
                answer = await client.post("/v1/chat/completions", json=good(case))
                outcome.count("good", answer.status_code)
                if answer.status_code == 429:
                    assert int(answer.headers["retry-after"]) >= 1
                elif answer.status_code != 200:
                    outcome.wrong.append(answer.text[:200])
                elif answer.json()["choices"][0]["message"]["content"].strip() != replies[case].strip():
                    outcome.wrong.append(f"{case}: {answer.text[:300]}")

        await asyncio.gather(*(one(number) for number in range(clients)))
    return outcome
