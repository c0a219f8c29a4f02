"""Batches through stand-in servers: order, retries, errors by row, going on, and nothing half-written."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from trimkit.errors import ConfigError, InputError, ModelError
from trimkit.serving.batch import BadRow, RequestSettings, Row, ServerSettings, read_rows, run_batch
from trimkit.serving.batch import servers as servers_module
from trimkit.serving.batch.dataset import count_rows

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABh6FO1AAAAABJRU5ErkJggg=="
)
REQUEST = RequestSettings("m")
Reply = Callable[[httpx.Request, dict[str, Any]], httpx.Response]


def said(text: str) -> httpx.Response:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return httpx.Response(200, json={"choices": [choice], "usage": {"completion_tokens": 1}})


def question_of(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"][-1]["text"])


def echo(request: httpx.Request, body: dict[str, Any]) -> httpx.Response:
    return said(f"re {question_of(body)}")


class Servers(httpx.AsyncBaseTransport):
    """Answers at once, the first rows last; counts requests a host, and how many are under way together."""

    def __init__(self, reply: Reply = echo, pause: float = 0.0) -> None:
        self.reply, self.pause = reply, pause
        self.hosts: Counter[str] = Counter()
        self.questions: Counter[str] = Counter()
        self.now = self.most = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [{"id": "listed"}]})
        body = json.loads(await request.aread())
        self.hosts[request.url.host] += 1
        self.questions[question_of(body)] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.pause if question_of(body) == "q0" else 0)
            return self.reply(request, body)
        finally:
            self.now -= 1


def settings(*hosts: str, **options: Any) -> ServerSettings:
    return ServerSettings(tuple(f"http://{host}" for host in hosts or ("a",)), first_rest=0.0, **options)


def rows(count: int) -> list[Row]:
    return [Row(i, f"id{i}", (), f"q{i}") for i in range(count)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_answers_come_in_the_order_of_the_rows_whoever_is_ready_first(out: Path) -> None:
    servers = Servers(pause=0.05)
    summary = run_batch(rows(60), out, settings("a", "b", in_flight=3), REQUEST, transport=servers)
    assert [(line["index"], line["id"], line["answer"]) for line in lines(out)] == [
        (i, f"id{i}", f"re q{i}") for i in range(60)
    ]
    assert (summary.rows, summary.errors, summary.reused) == (60, 0, 0)
    assert servers.most <= 6
    assert min(servers.hosts["a"], servers.hosts["b"]) > 10
    assert not out.with_name("out.jsonl.part").exists()


def test_a_failure_is_tried_again_at_another_server(out: Path) -> None:
    def reply(request: httpx.Request, body: dict[str, Any]) -> httpx.Response:
        if request.url.host == "a":
            raise httpx.ConnectError("refused")
        return echo(request, body)

    servers = Servers(reply)
    summary = run_batch(rows(20), out, settings("a", "b", in_flight=2), REQUEST, transport=servers)
    assert summary.errors == 0
    assert servers.hosts["b"] == 20


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(status: int, out: Path) -> None:
    seen: Counter[str] = Counter()

    def reply(request: httpx.Request, body: dict[str, Any]) -> httpx.Response:
        seen[question_of(body)] += 1
        return httpx.Response(status, json={}) if seen[question_of(body)] < 3 else echo(request, body)

    assert run_batch(rows(5), out, settings(), REQUEST, transport=Servers(reply)).errors == 0
    assert set(seen.values()) == {3}


def test_a_refused_row_is_an_error_of_that_row_and_not_tried_again(out: Path) -> None:
    def reply(request: httpx.Request, body: dict[str, Any]) -> httpx.Response:
        if question_of(body) == "q1":
            return httpx.Response(400, json={"error": {"message": "the picture is damaged", "code": 400}})
        return httpx.Response(500, json={}) if question_of(body) == "q3" else echo(request, body)

    servers = Servers(reply)
    summary = run_batch(rows(5), out, settings(retries=2), REQUEST, transport=servers)
    assert summary.errors == 2
    assert lines(out)[1]["error"] == {"message": "the picture is damaged", "status": 400}
    assert lines(out)[3]["error"]["status"] == 500
    assert (servers.questions["q1"], servers.questions["q3"]) == (1, 3)
    assert [line.get("answer") for line in lines(out)] == ["re q0", None, "re q2", None, "re q4"]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_every_row_would_be_refused_for_stops_the_batch(status: int, out: Path) -> None:
    servers = Servers(lambda request, body: httpx.Response(status, json={"error": {"message": "no such model"}}))
    with pytest.raises(ModelError, match="no such model"):
        run_batch(rows(50), out, settings(in_flight=2), REQUEST, transport=servers)
    assert sum(servers.questions.values()) < 20
    assert not out.exists()


class _Killed(BaseException):
    pass


def killing(count: int) -> Callable[[], None]:
    done = iter(range(count))

    def on_row() -> None:
        if next(done, None) is None:
            raise _Killed

    return on_row


def test_a_stopped_run_is_gone_on_with(out: Path) -> None:
    servers = Servers()
    with pytest.raises(_Killed):
        run_batch(rows(40), out, settings(in_flight=1), REQUEST, transport=servers, on_row=killing(9))
    assert not out.exists()
    part = out.with_name("out.jsonl.part")
    kept = part.read_bytes()
    part.write_bytes(kept + b'{"index": 10, "id": "id10", "ans')  # killed in the middle of a line
    written = kept.count(b"\n") - 1
    servers.questions.clear()
    summary = run_batch(rows(40), out, settings(in_flight=1), REQUEST, transport=servers)
    assert written >= 9
    assert (summary.rows, summary.reused) == (40, written)
    assert sum(servers.questions.values()) == 40 - written
    assert [line["answer"] for line in lines(out)] == [f"re q{i}" for i in range(40)]


def test_when_no_server_answers_the_run_stops_and_can_go_on(out: Path) -> None:
    def gone(request: httpx.Request, body: dict[str, Any]) -> httpx.Response:
        if int(question_of(body)[1:]) >= 7:
            raise httpx.ConnectError("refused")
        return echo(request, body)

    with pytest.raises(ModelError, match="no server answers"):
        run_batch(rows(12), out, settings(in_flight=1, retries=1), REQUEST, transport=Servers(gone))
    assert not out.exists()
    servers = Servers()
    assert run_batch(rows(12), out, settings(in_flight=1), REQUEST, transport=servers).reused == 7
    assert sum(servers.questions.values()) == 5
    assert len(lines(out)) == 12


def test_errors_alone_are_retried(out: Path) -> None:
    fail = {"q2", "q5"}

    def reply(request: httpx.Request, body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(400, json={}) if question_of(body) in fail else echo(request, body)

    servers = Servers(reply)
    assert run_batch(rows(8), out, settings(), REQUEST, transport=servers).errors == 2
    fail.clear()
    servers.questions.clear()
    summary = run_batch(rows(8), out, settings(), REQUEST, retry_errors=True, transport=servers)
    assert (summary.errors, summary.reused) == (0, 6)
    assert set(servers.questions) == {"q2", "q5"}
    assert [line["answer"] for line in lines(out)] == [f"re q{i}" for i in range(8)]


def test_a_partial_output_of_something_else_is_refused(out: Path) -> None:
    with pytest.raises(_Killed):
        run_batch(rows(9), out, settings(in_flight=1), REQUEST, transport=Servers(), on_row=killing(2))
    with pytest.raises(ConfigError, match="max_tokens: 256, now 8"):
        run_batch(rows(9), out, settings(), RequestSettings("m", max_tokens=8), transport=Servers())
    with pytest.raises(ConfigError, match="data set has changed"):
        run_batch([Row(0, "other", (), "q")], out, settings(), REQUEST, transport=Servers())
    with pytest.raises(ConfigError, match="more rows than the data set"):
        run_batch(rows(1), out, settings(), REQUEST, transport=Servers())
    part = out.with_name("out.jsonl.part")
    for content in ('{"index": 0}\n', "my notes, without an end", '{"format": "trimkit-batch"', "\n"):
        part.write_text(content)
        with pytest.raises(ConfigError, match="no partial output"):
            run_batch(rows(9), out, settings(), REQUEST, transport=Servers())
        assert part.read_text() == content
    part.unlink()
    notes = out.with_name("notes.txt")
    notes.write_text("")
    part.symlink_to(notes)
    with pytest.raises(InputError, match="cannot write"):
        run_batch(rows(9), out, settings(), REQUEST, transport=Servers())
    assert notes.read_text() == ""
    part.unlink()
    os.mkfifo(part)
    with pytest.raises((ConfigError, InputError)):
        run_batch(rows(9), out, settings(), REQUEST, transport=Servers())


def test_a_byte_that_has_changed_is_noticed(out: Path) -> None:
    with pytest.raises(_Killed):
        run_batch(rows(9), out, settings(in_flight=1), REQUEST, transport=Servers(), on_row=killing(4))
    part = out.with_name("out.jsonl.part")
    part.write_bytes(part.read_bytes().replace(b'"re q1"', b'"re q7"'))
    with pytest.raises(ConfigError, match="is damaged"):
        run_batch(rows(9), out, settings(), REQUEST, transport=Servers())
    assert not out.exists()


def test_a_private_output_stays_private(out: Path) -> None:
    run_batch(rows(3), out, settings(), REQUEST, transport=Servers())
    out.chmod(0o600)
    modes = []

    def look() -> None:
        modes.append(out.with_name("out.jsonl.part").stat().st_mode & 0o777)

    run_batch(rows(3), out, settings(), REQUEST, retry_errors=True, transport=Servers(), on_row=look)
    assert set(modes) == {0o600}
    assert out.stat().st_mode & 0o777 == 0o600
    assert b'"sum"' not in out.read_bytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("HTTP_PROXY", "ftp://x:1"),
        ("HTTP_PROXY", "http://[::"),
        ("SSL_CERT_FILE", "/nope"),
    ],
)
def test_an_environment_that_no_client_can_use(
    name: str, value: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="proxies or certificates cannot be used"):
        run_batch(rows(1), out, settings(), REQUEST)


@pytest.mark.parametrize("url", ["http://999.999.999.999", "http://[v1.x]:1", "http://xn--ls8h.la:1"])
def test_hosts_that_are_none(url: str, out: Path) -> None:
    with pytest.raises((ConfigError, ModelError)) as raised:
        run_batch(rows(1), out, ServerSettings((url,), first_rest=0.0, retries=0), REQUEST)
    assert "\n" not in str(raised.value)


def test_a_reply_without_an_end_is_an_error_of_its_row(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers_module, "_MAX_REPLY", 1000)
    endless = Servers(lambda request, body: said("x" * 2000))
    assert run_batch(rows(1), out, settings(retries=0), REQUEST, transport=endless).errors == 1
    assert "more than" in lines(out)[0]["error"]["message"]


def test_a_pause_that_is_no_number(out: Path) -> None:
    said_so: list[int] = []

    def reply(request: httpx.Request, body: dict[str, Any]) -> httpx.Response:
        said_so.append(1)
        return (
            httpx.Response(503, headers={"Retry-After": "\xb2"}, json={}) if len(said_so) == 1 else echo(request, body)
        )

    assert run_batch(rows(1), out, settings(), REQUEST, transport=Servers(reply)).errors == 0


def test_cells_that_python_has_no_value_for_are_bad_rows(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    odd = arrow.array([2**62, 1], arrow.timestamp("ns", tz="Mars/Olympus"))
    text = arrow.array([b"\xff", b"what?"], arrow.binary()).view(arrow.string())
    parquet.write_table(arrow.table({"id": odd, "question": arrow.array(["a", "b"])}), path)
    assert all(isinstance(row, BadRow) for row in read_rows(path))
    parquet.write_table(arrow.table({"id": ["x", "y"], "question": text}), path)
    first, second = read_rows(path)
    assert isinstance(first, BadRow)
    assert isinstance(second, Row)


def test_a_damaged_data_set_is_one_line(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(arrow.table({"question": [f"question {i}" for i in range(500)]}), path)
    whole = path.read_bytes()
    for at in range(8, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(ConfigError):
            assert len(list(read_rows(path))) <= 500


@pytest.mark.parametrize("other", [Row(1, "id1", (), "another question"), Row(1, "id1", ("http://x/other.png",), "q1")])
def test_answers_to_something_else_are_not_gone_on_with(other: Row, out: Path) -> None:
    """Rows with the same numbers and names may be asked something else the next time."""
    with pytest.raises(_Killed):
        run_batch(rows(9), out, settings(in_flight=1), REQUEST, transport=Servers(), on_row=killing(4))
    changed = [other if row.index == 1 else row for row in rows(9)]
    with pytest.raises(ConfigError, match=r"row 1 .'id1'. was asked otherwise"):
        run_batch(changed, out, settings(), REQUEST, transport=Servers())
    run_batch(rows(9), out, settings(), REQUEST, transport=Servers())
    for again, request in ((changed, REQUEST), (rows(9), RequestSettings("m", max_tokens=8))):
        before = out.read_bytes()
        with pytest.raises(ConfigError, match="was asked otherwise"):
            run_batch(again, out, settings(), request, retry_errors=True, transport=Servers())
        assert out.read_bytes() == before
        out.with_name("out.jsonl.part").unlink(missing_ok=True)


def test_a_finished_output_is_not_written_over(out: Path) -> None:
    out.write_text("mine\n")
    with pytest.raises(ConfigError, match="there already"):
        run_batch(rows(1), out, settings(), REQUEST, transport=Servers())
    assert out.read_text() == "mine\n"


def test_the_model_is_what_the_servers_list(out: Path) -> None:
    names = []

    def reply(request: httpx.Request, body: dict[str, Any]) -> httpx.Response:
        names.append(body["model"])
        return echo(request, body)

    run_batch(rows(1), out, settings(), transport=Servers(reply))
    assert names == ["listed"]


def test_what_is_sent(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    bodies: list[dict[str, Any]] = []

    def reply(request: httpx.Request, body: dict[str, Any]) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer secret"
        bodies.append(body)
        return echo(request, body)

    request = RequestSettings("m", 7, trim={"budget": 64}, extra={"seed": 1})
    given = [Row(0, "0", (tmp_path / "a.png", "https://host/b.png", PNG), "what?")]
    run_batch(given, out, settings(api_key="secret"), request, transport=Servers(reply))
    data = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in (data, "https://host/b.png", data)]
    assert bodies == [
        {
            "seed": 1,
            "model": "m",
            "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "what?"}]}],
            "max_tokens": 7,
            "temperature": 0.0,
            "mm_processor_kwargs": {"trim": {"budget": 64}},
        }
    ]


def test_rows_that_cannot_be_asked_are_errors_of_their_own(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    source = tmp_path / "rows.jsonl"
    given = [
        {"id": 7, "image": "a.png", "question": "q0"},
        {"image": "gone.png", "question": "q1"},
        {"images": ["a.png", "a.png"]},
        {"image": "a.png", "question": " "},
        {"image": 3, "question": "q4"},
    ]
    source.write_text("\n".join([*map(json.dumps, given), "{", "", "[1]"]))
    summary = run_batch(read_rows(source, "all"), out, settings(), REQUEST, transport=Servers())
    found = lines(out)
    assert count_rows(source) == 8  # with the blank one
    assert [line["id"] for line in found] == ["7", "1", "2", "3", "4", "5", "6"]
    assert [line.get("answer") for line in found] == ["re q0", None, "re all", None, None, None, None]
    assert summary.errors == 5
    assert "gone.png" in found[1]["error"]["message"]


def test_a_directory_is_its_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.JPG", "notes.txt", "a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    found = list(read_rows(tmp_path, "what?"))
    assert [row.id for row in found] == ["a/c.JPG", "a.png", "b.png"]
    assert count_rows(tmp_path) == 3
    with pytest.raises(ConfigError, match="holds no questions"):
        read_rows(tmp_path)


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = {"image": [{"bytes": PNG, "path": None}, {"bytes": None, "path": "x.png"}], "question": ["a", None]}
    parquet.write_table(pyarrow.table(table), tmp_path / "rows.parquet")
    first, second = read_rows(tmp_path / "rows.parquet", "all")
    assert first == Row(0, "0", (PNG,), "a")
    assert second == Row(1, "1", (tmp_path / "x.png",), "all")
    assert count_rows(tmp_path / "rows.parquet") == 2


@pytest.mark.parametrize("name", ["gone.jsonl", "rows.csv"])
def test_other_data_sets_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(ConfigError):
        read_rows(tmp_path / name)


def test_a_long_line_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimkit.serving.batch.dataset._MAX_LINE", 64)
    (tmp_path / "r.jsonl").write_text(f'{{"question": "{"x" * 500}"}}\n{{"question": "short"}}\n')
    first, second = read_rows(tmp_path / "r.jsonl")
    assert isinstance(first, BadRow)
    assert second == Row(1, "1", (), "short")


@pytest.mark.parametrize("urls", [(), ("localhost:8000",)])
def test_servers_that_are_none(urls: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        ServerSettings(urls)


def test_two_runs_do_not_write_one_file(out: Path) -> None:
    def inside() -> Iterator[Row]:
        yield Row(0, "0", (), "q0")
        with pytest.raises(ConfigError, match="another run"):
            run_batch_elsewhere(out)

    def run_batch_elsewhere(path: Path) -> None:
        from trimkit.serving.batch.partial import PartialOutput

        PartialOutput(path, REQUEST.to_plain())

    assert run_batch(inside(), out, settings(), REQUEST, transport=Servers()).rows == 1


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run_batch(rows(1), tmp_path / "no" / "out.jsonl", settings(), REQUEST, transport=Servers())
