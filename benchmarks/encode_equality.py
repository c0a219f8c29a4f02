"""``trimkit encode-server`` in front of a text-only vLLM: the same greedy tokens as transformers, request by request.

``python -m benchmarks.encode_equality --vllm PYTHON``, where PYTHON is the interpreter of an environment with vLLM. The demo
model's language model is written alone and served by that vLLM; this process encodes, and answers every request a second time
by transformers with an attached trimkit. Requests are mixed: methods and budgets (those decided per image included), one and
two pictures, two turns, system prompts, questions given apart, pictures without a word, whole replies and streams. End of text
is held off (``min_tokens``), so that every reply has its full length. All are sent twice, the second time to warm caches. As a
control, the same requests with another question for the choice have to be told apart.

Writes ``benchmarks/results/encode_equality.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import trimkit
from benchmarks.cells import table
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit.demo import load_demo
from trimkit.demo.items import sample_dialogue, sample_item
from trimkit.serving.encode.language_model import save_language_model

NEW_TOKENS = 12
KINDS = ("plain", "two pictures", "two turns", "system prompt", "question apart", "no words", "text alone")
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"budget": "top-p:0.9"},
    {"budget": 121},
    {"budget": 0.4},
    {"budget": 1.0},
    {"method": "divprune", "budget": 64},
    {"method": "focus"},
    {"aggregate": "none", "min_tokens": 40},
)
CONTROL = "Is there a spoon?"


@dataclass(frozen=True)
class Case:
    """One request: its messages with PIL pictures in them, and how it is reduced."""

    kind: str
    messages: list[dict[str, Any]]
    trim: dict[str, Any]
    query: str | None
    stream: bool


def cases(count: int, seed: int) -> list[Case]:
    """The requests; fewer pictures than requests, so that pictures come again with other questions."""
    made = []
    for number in range(count):
        picture, question = sample_item(seed, number % max(count // 3, 1))
        kind = KINDS[number % len(KINDS)]
        words, query = question.text, None
        messages = [turn("user", [picture], words)]
        if kind == "two pictures":
            messages = [turn("user", [picture, sample_item(seed, number + 1)[0]], words)]
        elif kind == "two turns":
            picture, asked = sample_dialogue(seed, number, 2)
            first, second = asked
            messages = [turn("user", [picture], first.text), turn("assistant", [], first.answer)]
            messages.append(turn("user", [], second.text))
        elif kind == "system prompt":
            messages.insert(0, turn("system", [], "Answer in one word."))
        elif kind == "question apart":
            messages, query = [turn("user", [picture], "Answer in one word.")], words
        elif kind == "no words":
            messages = [turn("user", [picture], None)]
        elif kind == "text alone":
            messages = [turn("user", [], words)]
        made.append(Case(kind, messages, SETTINGS[number % len(SETTINGS)], query, number % 2 == 1))
    return made


def turn(role: str, pictures: list[Any], words: str | None) -> dict[str, Any]:
    """A message as transformers' templates take it, with the pictures beside it."""
    text = [] if words is None else [{"type": "text", "text": words}]
    return {"role": role, "content": [*[{"type": "image", "image": each} for each in pictures], *text]}


class Reference:
    """The same by transformers and an attached trimkit."""

    def __init__(self) -> None:
        self.model, self.processor = load_demo()
        self._attachments: dict[str, Any] = {}

    def tokens(self, case: Case) -> list[int]:
        """Greedy tokens of the reply."""
        turns = [
            {**each, "content": [part if part["type"] == "text" else {"type": "image"} for part in each["content"]]}
            for each in case.messages
        ]
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = self.processor(images=pictures_of(case) or None, text=[text], return_tensors="pt")
        with self._attachment(case.query, case.trim):
            out = self.model.generate(**inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
        found: list[int] = out[0, inputs["input_ids"].shape[1] :].tolist()
        return found

    def _attachment(self, query: str | None, trim: dict[str, Any]) -> Any:
        """Detached; one for all requests that are reduced alike, since it learns the chat template first."""
        key = json.dumps([query, trim])
        if key not in self._attachments:
            self._attachments[key] = trimkit.reduce(self.model, self.processor, query=query, **trim)
        return self._attachments[key]


def expected_tokens(made: list[Case]) -> list[list[int]]:
    """The reference's tokens for every request."""
    reference, found = Reference(), []
    for number, case in enumerate(made):
        with torch.no_grad():
            found.append(reference.tokens(case))
        print(f"reference {number + 1} of {len(made)}", file=sys.stderr, flush=True)
    return found


def pictures_of(case: Case) -> list[Any]:
    """The pictures of a request, in order."""
    return [part["image"] for each in case.messages for part in each["content"] if part["type"] == "image"]


def body_of(case: Case, query: str | None) -> dict[str, Any]:
    """The chat request."""
    messages = [
        {**each, "content": [part if part["type"] == "text" else image_part(part) for part in each["content"]]}
        for each in case.messages
    ]
    trim = {**case.trim, **({} if query is None else {"query": query})}
    return {
        "model": "demo",
        "messages": messages,
        "temperature": 0,
        "max_tokens": NEW_TOKENS,
        "min_tokens": NEW_TOKENS,
        "return_token_ids": True,
        "stream": case.stream,
        "mm_processor_kwargs": {"trim": trim},
    }


def image_part(part: dict[str, Any]) -> dict[str, Any]:
    """A picture as a data address."""
    file = io.BytesIO()
    part["image"].save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


async def replies(url: str, bodies: list[dict[str, Any]], clients: int) -> list[list[int]]:
    """The tokens of every reply, so many requests at once."""
    import httpx

    slots = asyncio.Semaphore(clients)
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def one(body: dict[str, Any]) -> list[int]:
            async with slots:
                reply = await client.post("/v1/chat/completions", json=body)
            if reply.status_code != 200:
                raise RuntimeError(f"HTTP {reply.status_code}: {reply.text[:500]}")
            if not body["stream"]:
                return list(reply.json()["choices"][0]["token_ids"])
            lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
            if lines[-1] != "[DONE]":
                raise RuntimeError(f"a stream ended with {lines[-1]}")
            events = [json.loads(line) for line in lines[:-1]]
            return [token for event in events for choice in event["choices"] for token in choice.get("token_ids") or []]

        return list(await asyncio.gather(*map(one, bodies)))


@contextlib.contextmanager
def process(command: list[str], url: str, seconds: float, log: Path, **env: str) -> Iterator[None]:
    """A server, from the moment when it says that it is healthy."""
    import httpx

    with log.open("wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **env})
        try:
            ends = time.monotonic() + seconds
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                        break
                if running.poll() is not None or time.monotonic() > ends:
                    raise RuntimeError(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(1)
            yield
        finally:
            running.terminate()
            running.wait(60)


@contextlib.contextmanager
def servers(vllm: str, port: int, folder: Path, alone: Path) -> Iterator[str]:
    """vLLM with the language model alone, and the encoder in front of it; yields the encoder's address."""
    engine, front = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
    run = [vllm, "-m", "vllm.entrypoints.openai.api_server", "--model", str(alone), "--served-model-name", "demo"]
    run += [
        "--enable-prompt-embeds",
        "--dtype",
        "float32",
        "--enforce-eager",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    encode = [sys.executable, "-m", "trimkit", "encode-server", "demo", "--upstream", engine, "--port", str(port + 1)]
    with (
        process(run, engine, 900, folder / "vllm.log", **quiet),
        process(encode, front, 300, folder / "encode.log"),
    ):
        yield front


def compare(url: str, made: list[Case], expected: list[list[int]], clients: list[int]) -> dict[str, Any]:
    """How many replies are the reference's, at each number of clients, cold and warm, and of the control."""
    bodies = [body_of(case, case.query) for case in made]
    found: dict[str, Any] = {"requests": [], "by_kind": {}}
    for number in clients:
        for caches in ("first", "again"):
            same = [a == b for a, b in zip(asyncio.run(replies(url, bodies, number)), expected, strict=True)]
            found["requests"].append({"clients": number, "time": caches, "sent": len(same), "equal": sum(same)})
            for case, equal in zip(made, same, strict=True):
                counts = found["by_kind"].setdefault(case.kind, {"sent": 0, "equal": 0})
                counts["sent"] += 1
                counts["equal"] += equal
    # Those whose choice reads the question, and whose question is not the control's already.
    reading = [i for i, case in enumerate(made) if pictures_of(case) and case.trim.get("budget") != 1.0]
    reading = [i for i in reading if made[i].trim.get("method") != "divprune"]
    other = asyncio.run(replies(url, [body_of(made[i], CONTROL) for i in reading], clients[-1]))
    equal = sum(a == expected[i] for a, i in zip(other, reading, strict=True))
    found["control"] = {"question": CONTROL, "sent": len(reading), "equal": equal}
    return found


def shown(record: Record) -> str:
    """A row a load, and one for the control."""
    results = record["results"]
    rows = [[str(each["clients"]), each["time"], str(each["sent"]), str(each["equal"])] for each in results["requests"]]
    control = results["control"]
    rows.append(["", "control: another question", str(control["sent"]), str(control["equal"])])
    note = f"Demo model, vLLM {record['config']['vllm']}, {record['config']['new_tokens']} greedy tokens a reply."
    return f"{table(['clients', 'sent', 'requests', 'equal to transformers'], rows)}\n\n{note}"


TABLES = {"encode-equality": made_of("encode_equality", shown, "encode_equality")}


def main() -> int:
    """Compare, and write the result; exits 1 where a reply differs, or where the control finds none that does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="Python of an environment with vLLM 0.24 or newer")
    parser.add_argument("--requests", type=int, default=56)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--clients", default="4,16")
    parser.add_argument("--port", type=int, default=8741)
    parser.add_argument("--out", type=Path, default=RESULTS / "encode_equality.json")
    given = parser.parse_args()
    version = subprocess.check_output(
        [given.vllm, "-c", "from vllm import version; print(version.__version__)"], text=True
    )
    config = {"model": "demo", "vllm": version.split()[-1], "new_tokens": NEW_TOKENS, "seed": given.seed}
    made = cases(given.requests, given.seed)
    with (
        ThreadPoolExecutor(1) as pool,
        tempfile.TemporaryDirectory() as folder,
    ):
        alone = save_language_model("demo", Path(folder) / "language-model")
        reference = pool.submit(expected_tokens, made)  # while the servers start
        with servers(given.vllm, given.port, Path(folder), alone) as url:
            results = compare(url, made, reference.result(), [int(word) for word in given.clients.split(",")])
    record = {"experiment": "encode_equality", "config": config, "provenance": provenance(), "results": results}
    save(record, given.out)
    print(json.dumps(results, indent=2))
    wrong = any(each["equal"] != each["sent"] for each in results["requests"])
    return int(wrong or results["control"]["equal"] == results["control"]["sent"])


if __name__ == "__main__":
    sys.exit(main())
