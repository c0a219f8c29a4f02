"""Pictures and questions through several servers with Ray Data, on one machine or on a cluster.

    python -m examples.batch_ray rows.jsonl --server http://a:8000 --server http://b:8000 --model NAME -o answers

``trimkit batch`` does the same without Ray, from one machine. Here Ray reads the pictures and sends the requests from as many
workers as it has. The data set is cut into shards; each becomes one file in the output directory, whole or not at all, with its
rows in order. A shard whose file is there is skipped: the same command goes on where an earlier one was stopped.

Ray keeps rows as Arrow tables, which give every part of a message the fields of all parts. The request therefore travels as one
text, and ``Session`` sends that text. Ray's HTTP processor has one address: every server gets one, and a share of each shard.
It sends the requests of a batch one after the other, so a worker takes a row at a time (``batch_size=1``), and ``--in-flight``
workers ask one server. It tries again after 408, 429, 502, 503, 504 and broken connections; a row that has no reply even then
ends the run, whose finished shards stay.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import ray
from ray.data.llm import HttpRequestProcessorConfig, build_processor

from trimkit.errors import ConfigError, InputError
from trimkit.io.files import write_atomically
from trimkit.io.reading import read_json
from trimkit.serving.batch.dataset import BadRow, Row, read_rows
from trimkit.serving.batch.requests import RequestSettings, chat_request, check_pictures, reply_of


class Session:
    """An aiohttp session that sends what the field ``body`` of a payload holds."""

    def __init__(self, seconds: float = 600.0) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds))

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def post(self, url: str, headers: dict[str, str], data: str) -> Any:
        """What aiohttp gives."""
        return self._session.post(url, headers=headers, data=json.loads(data)["body"])


def processor_for(url: str, in_flight: int, retries: int, request: RequestSettings, api_key: str | None) -> Any:
    """Asks one server. A row that it refuses is kept, with its error; one without any reply ends the run."""

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        images = tuple(each if each.startswith(("http:", "https:", "data:")) else Path(each) for each in row["images"])
        body = json.dumps(chat_request(Row(row["index"], row["id"], images, row["question"]), request))
        return {"payload": {"body": body}, "index": row["index"], "id": row["id"]}

    def postprocess(row: dict[str, Any]) -> dict[str, Any]:
        return {"index": row["index"], "line": json.dumps(line_of(row))}

    config = HttpRequestProcessorConfig(
        url=f"{url.rstrip('/').removesuffix('/v1')}/v1/chat/completions",
        headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
        max_retries=retries,
        batch_size=1,
        concurrency=in_flight,
        session_factory=Session,
    )
    return build_processor(config, preprocess=preprocess, postprocess=postprocess)


def line_of(row: dict[str, Any]) -> dict[str, Any]:
    """One line of the output, as ``trimkit batch`` writes it."""
    head = {"index": int(row["index"]), "id": row["id"]}
    reply = row["http_response"]
    error = reply.get("error")
    if error:
        return {**head, "error": {"message": str(error.get("message")), "status": error.get("code")}}
    try:
        return {**head, **reply_of(reply)}
    except InputError as error:
        return {**head, "error": {"message": str(error), "status": None}}


def run_shard(rows: list[Row | BadRow], processors: list[Any]) -> list[str]:
    """The lines of a shard, in the order of its rows."""
    found = {row.index: {"message": fault, "status": None} for row in rows if (fault := fault_of(row)) is not None}
    lines = {row.index: {"index": row.index, "id": row.id, "error": found.get(row.index)} for row in rows}
    asked = [
        {"index": row.index, "id": row.id, "images": [str(each) for each in row.images], "question": row.question}
        for row in rows
        if isinstance(row, Row) and row.index not in found
    ]
    shares = [asked[number :: len(processors)] for number in range(len(processors))]
    parts = [
        ask(ray.data.from_items(share, override_num_blocks=min(len(share), 64)))
        for ask, share in zip(processors, shares, strict=True)
        if share
    ]
    for answer in parts[0].union(*parts[1:]).iter_rows() if parts else ():
        lines[int(answer["index"])] = json.loads(answer["line"])
    return [json.dumps(lines[row.index]) for row in rows]


def fault_of(row: Row | BadRow) -> str | None:
    """Why a row cannot be asked, where that shows without reading its pictures."""
    if isinstance(row, BadRow):
        return row.reason
    try:
        check_pictures(row)
    except InputError as error:
        return str(error)
    return None


def shards(rows: Iterator[Row | BadRow], size: int) -> Iterator[list[Row | BadRow]]:
    """So many rows at a time."""
    while shard := list(itertools.islice(rows, size)):
        yield shard


def check_same(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse an output directory whose shards were asked otherwise; a new one is told what it is asked with.

    Raises:
        ConfigError: as it says.
    """
    path = folder / "batch.json"
    if path.exists():
        before = read_json(path)
        if before != settings:
            changed = [name for name in settings if before.get(name) != settings[name]]
            raise ConfigError(f"{folder} was begun with another {', '.join(changed)}: give that, or another directory")
        return
    if any(folder.glob("part-*.jsonl")):
        raise ConfigError(f"{folder} has shards of a run that is not known: give another directory")
    write_atomically(path, lambda file: file.write(json.dumps(settings, indent=2).encode()))


def main() -> None:
    """Ask, shard by shard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a .jsonl file or a directory of pictures")
    parser.add_argument("--server", action="append", required=True)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--question")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--budget", help="image tokens to keep, as the servers understand it")
    parser.add_argument("--in-flight", type=int, default=2, help="workers that ask each server")
    parser.add_argument("--retries", type=int, default=4)
    parser.add_argument("--shard", type=int, default=10_000, help="rows in one file")
    parser.add_argument("--api-key")
    given = parser.parse_args()
    request = RequestSettings(given.model, given.max_tokens, trim={"budget": given.budget} if given.budget else {})
    given.output.mkdir(parents=True, exist_ok=True)
    check_same(
        given.output,
        {"dataset": given.dataset, "question": given.question, "shard": given.shard, "request": request.to_plain()},
    )
    processors = [processor_for(url, given.in_flight, given.retries, request, given.api_key) for url in given.server]
    for number, rows in enumerate(shards(read_rows(given.dataset, given.question), given.shard)):
        target = given.output / f"part-{number:06d}.jsonl"
        if target.exists():
            continue
        text = "\n".join(run_shard(rows, processors)) + "\n"
        write_atomically(target, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
        print(f"written {target}, {len(rows)} rows", flush=True)


if __name__ == "__main__":
    main()
