"""A whole batch: rows in order, so many under way at once, written as they come, and gone on with where it broke off."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimkit.errors import ConfigError, InputError, ModelError
from trimkit.io.files import check_writable, write_atomically
from trimkit.serving.batch.dataset import BadRow, Row
from trimkit.serving.batch.partial import PartialOutput, finished_lines
from trimkit.serving.batch.requests import RequestSettings, asked_of, chat_request, reply_of
from trimkit.serving.batch.servers import RowFailedError, ServerPool, ServerSettings, ServersGoneError

if TYPE_CHECKING:
    import httpx

__all__ = ["BatchSummary", "first_model", "run_batch"]

_AHEAD = 4  # rows begun for every slot: a slow one holds up the writing, not the asking


@dataclass
class BatchSummary:
    """What became of a batch.

    Attributes:
        rows: in the output.
        errors: of these, without an answer.
        reused: of these, answered by an earlier run.
    """

    rows: int = 0
    errors: int = 0
    reused: int = 0


def run_batch(
    rows: Iterable[Row | BadRow],
    output: str | Path,
    servers: ServerSettings,
    request: RequestSettings | None = None,
    *,
    retry_errors: bool = False,
    on_row: Callable[[], object] = lambda: None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> BatchSummary:
    """Ask the servers about every row, and write one JSON line a row, in the order of the rows.

    A line holds ``index``, ``id``, ``asked`` (a digest of question, pictures and settings) and either ``answer``,
    ``finish_reason`` and ``usage``, or ``error`` (``message`` and ``status``).
    Lines go to ``OUTPUT.part`` as soon as all before them are there; ``output`` appears whole, when the last is. A run that was
    stopped is gone on with by the same call: what is in ``OUTPUT.part`` is not asked again.

    Args:
        rows: as ``read_rows`` gives them.
        output: a JSONL file that is not there yet, or with ``retry_errors`` is.
        servers: which, and how they are asked.
        request: what the requests share; None takes the first model that a server lists, and defaults.
        retry_errors: ``output`` is there already: ask its rows without an answer once more, and no others.
        on_row: called after each row.
        transport: of httpx, in place of the network; for tests.

    Raises:
        ConfigError: ``output`` is there already; or ``OUTPUT.part`` (with ``retry_errors`` the output) is of other rows or of
            other settings, or is in use.
        InputError: the output cannot be written.
        ModelError: no server answers, or they refuse every row. What was answered so far is kept.
        MissingDependencyError: httpx is not installed.
    """
    target = check_writable(output)
    if retry_errors and not target.is_file():
        raise ConfigError(
            f"there is no output {str(target)!r} whose errors could be tried again: leave that option out"
        )
    if target.exists() and not retry_errors:
        raise ConfigError(f"{str(target)!r} is there already: remove it, write to another file, or retry its errors")
    try:
        return asyncio.run(_Batch(target, servers, request, retry_errors, on_row).run(rows, transport))
    except ServersGoneError as error:
        raise ModelError(str(error)) from None


class _Batch:
    def __init__(
        self,
        target: Path,
        servers: ServerSettings,
        request: RequestSettings | None,
        retry_errors: bool,
        on_row: Callable[[], object],
    ) -> None:
        self._target, self._servers, self._request = target, servers, request
        self._retry, self._on_row = retry_errors, on_row
        self._summary = BatchSummary()

    async def run(self, rows: Iterable[Row | BadRow], transport: httpx.AsyncBaseTransport | None) -> BatchSummary:
        async with ServerPool(self._servers, transport) as pool:
            request = self._request or RequestSettings(await pool.model())
            with PartialOutput(self._target, request.to_plain()) as part:
                before = finished_lines(self._target) if self._retry else iter(())
                await self._rows(self._todo(rows, part, before, request), part, pool, request)
                write_atomically(self._target, part.copy_to)
                part.remove()
        return self._summary

    def _todo(
        self,
        rows: Iterable[Row | BadRow],
        part: PartialOutput,
        before: Iterator[dict[str, Any]],
        request: RequestSettings,
    ) -> Iterator[tuple[Row | BadRow, dict[str, Any] | None]]:
        """Rows that are not in the partial output, each with the line that an earlier output has of it."""
        done = part.read()
        for row in rows:
            written = next(done, None)
            earlier = next(before, None)
            for line, path in ((written, part.path), (earlier, self._target)):
                _check_same(row, line, path, request)
            if written is None:
                yield row, earlier
            else:
                self._count(written, reused=True)
        if next(done, None) is not None:
            raise ConfigError(
                f"{str(part.path)!r} has more rows than the data set: remove it, or write to another file"
            )

    async def _rows(
        self,
        todo: Iterator[tuple[Row | BadRow, dict[str, Any] | None]],
        part: PartialOutput,
        pool: ServerPool,
        request: RequestSettings,
    ) -> None:
        slots = asyncio.Semaphore(pool.slots)
        under_way: deque[asyncio.Task[tuple[dict[str, Any], bool]]] = deque()
        try:
            for row, earlier in todo:
                under_way.append(asyncio.create_task(self._line(row, earlier, slots, pool, request)))
                if len(under_way) >= _AHEAD * pool.slots:
                    self._write(part, *await under_way.popleft())
                await asyncio.sleep(0)
            while under_way:
                self._write(part, *await under_way.popleft())
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _line(
        self,
        row: Row | BadRow,
        earlier: dict[str, Any] | None,
        slots: asyncio.Semaphore,
        pool: ServerPool,
        request: RequestSettings,
    ) -> tuple[dict[str, Any], bool]:
        """The line of one row, and whether an earlier output had it."""
        if earlier is not None and "error" not in earlier:
            return earlier, True
        head: dict[str, Any] = {"index": row.index, "id": row.id}
        if isinstance(row, BadRow):
            return {**head, "error": {"message": row.reason, "status": None}}, False
        head["asked"] = asked_of(row, request)
        try:
            async with slots:
                body = await asyncio.to_thread(chat_request, row, request)
                return {**head, **reply_of(await pool.chat(body))}, False
        except InputError as error:
            return {**head, "error": {"message": str(error), "status": None}}, False
        except RowFailedError as failure:
            return {**head, "error": {"message": str(failure), "status": failure.status}}, False

    def _write(self, part: PartialOutput, line: dict[str, Any], reused: bool) -> None:
        part.add(line)
        self._count(line, reused)

    def _count(self, line: dict[str, Any], reused: bool) -> None:
        self._summary.rows += 1
        self._summary.errors += "error" in line
        self._summary.reused += reused
        self._on_row()


def _check_same(row: Row | BadRow, line: dict[str, Any] | None, path: Path, request: RequestSettings) -> None:
    """Refuse a line that an earlier run wrote about something else.

    Raises:
        ConfigError: as it says.
    """
    if line is None:
        return
    if (line.get("index"), line.get("id")) != (row.index, row.id):
        raise ConfigError(
            f"row {row.index} is {row.id!r}, but {str(line.get('id'))!r} in {str(path)!r}: the data set has changed; remove "
            "that file, or write to another"
        )
    before = line.get("asked")
    if before is not None and (isinstance(row, BadRow) or before != asked_of(row, request)):
        raise ConfigError(
            f"row {row.index} ({row.id!r}) was asked otherwise in {str(path)!r}: another question, picture or setting; remove "
            "that file, or write to another"
        )


def first_model(servers: ServerSettings) -> str:
    """The name of the first model that a server lists.

    Raises:
        ModelError: no server lists any.
        MissingDependencyError: httpx is not installed.
    """

    async def ask() -> str:
        async with ServerPool(servers) as pool:
            return await pool.model()

    try:
        return asyncio.run(ask())
    except ServersGoneError as error:
        raise ModelError(str(error)) from None
