"""Addresses, keys, hosts and replies that are none: one line and exit code 2 on every command that talks to a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.checkpoint import save_small
from tests.fuzz import web
from trimkit.cli import run
from trimkit.io.addresses import is_sendable_key, is_server_address

Captured = pytest.CaptureFixture[str]
ADDRESSES = [
    "http://[::1",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:x",
    "http://a b",
    "http://x\n",
    "http://",
    "http://\ud800",
]
ADDRESSES += [
    "http://127.0.0.1:1/\x7f",
    "http://user:\x01@127.0.0.1:1",
    "http://127.0.0.1:0",
    "ftp://x",
    "http://x/?a#b",
]
KEYS = ["é", "a\r\nb", "\udcff", " ", "\0", ""]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("picture.png")
    Path("rows.jsonl").write_text('{"image": "picture.png", "question": "What?"}\n')
    return tmp_path


@pytest.fixture
def port(rows: Path) -> Iterator[int]:
    with web.serving(rows / "picture.png") as found:
        yield found


def refused(words: list[str], capsys: Captured) -> str:
    """The one line with which a command is refused, which leaves nothing behind."""
    capsys.readouterr()  # of what made the files
    before = sorted(Path.cwd().iterdir())
    code = run(words)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert err.startswith("trimkit: ")
    assert err.count("\n") == 1
    assert sorted(Path.cwd().iterdir()) == before
    return err


@pytest.mark.parametrize("url", ADDRESSES, ids=ascii)
@pytest.mark.parametrize("command", ["batch", "show", "encode-server"])
def test_an_address_that_is_none(command: str, url: str, rows: Path, capsys: Captured) -> None:
    words = {
        "batch": ["batch", "rows.jsonl", "-o", "out.jsonl", "--model", "demo", "--server", url],
        "show": ["show", "picture.png", "What?", "-o", "out.png", "--server", url],
        "encode-server": ["encode-server", "nothing", "--port", "0", "--upstream", url],
    }
    assert "address" in refused(words[command], capsys)


def test_addresses_that_are_some() -> None:
    good = [
        "http://localhost:8000",
        "https://example.org/v1",
        "http://[::1]:8000",
        "http://127.0.0.1",
        "HTTP://host/path/",
    ]
    assert all(map(is_server_address, good))
    assert all(map(is_sendable_key, [None, "secret", "sk-1_2.3"]))


@pytest.mark.parametrize("key", KEYS, ids=ascii)
@pytest.mark.parametrize("command", ["batch", "show", "encode-server", "upstream", "serve"])
def test_a_key_that_no_header_can_carry(command: str, key: str, rows: Path, capsys: Captured) -> None:
    at = "http://127.0.0.1:1"
    words = {
        "batch": ["batch", "rows.jsonl", "-o", "out.jsonl", "--model", "demo", "--server", at, "--api-key", key],
        "show": ["show", "picture.png", "What?", "-o", "out.png", "--server", at, "--api-key", key],
        "encode-server": ["encode-server", "nothing", "--port", "0", "--upstream", at, "--api-key", key],
        "upstream": ["encode-server", "nothing", "--port", "0", "--upstream", at, "--upstream-key", key],
        "serve": ["serve", "nothing", "--port", "0", "--engine", "transformers", "--api-key", key],
    }
    assert "key" in refused(words[command], capsys)


@pytest.mark.parametrize("host", ["\ud800", "a\0b", "x" * 300, "é" * 200], ids=["surrogate", "zero", "long", "letters"])
@pytest.mark.parametrize(
    "words", [["serve"], ["encode-server", "--upstream", "http://127.0.0.1:1"]], ids=lambda x: x[0]
)
def test_a_host_that_is_none(words: list[str], host: str, rows: Path, capsys: Captured) -> None:
    assert "cannot listen" in refused([*words, "nothing", "--port", "0", "--host", host], capsys)


@pytest.mark.parametrize("name", ["deep", "garbage", "html", "list", "numbers", "cut", "empty", "refuse"])
@pytest.mark.parametrize("command", ["batch", "show"])
def test_a_server_that_answers_something_else(command: str, name: str, port: int, rows: Path, capsys: Captured) -> None:
    words = {
        "batch": ["batch", "rows.jsonl", "-o", "out.jsonl", "--retries", "0"],
        "show": ["show", "picture.png", "What?", "-o", "out.png"],
    }
    refused([*words[command], "--server", f"http://127.0.0.1:{port}/{name}"], capsys)


@pytest.mark.parametrize(("name", "said"), [("deep", "no JSON"), ("list", "no chat completion"), ("html", "no JSON")])
def test_a_reply_that_is_none_is_that_rows_error(name: str, said: str, port: int, rows: Path, capsys: Captured) -> None:
    words = ["batch", "rows.jsonl", "-o", "out.jsonl", "--model", "demo", "--retries", "0"]
    assert run([*words, "--server", f"http://127.0.0.1:{port}/{name}"]) == 0
    assert said in json.loads(Path("out.jsonl").read_text())["error"]["message"]


@pytest.mark.parametrize("option", ["--model", "--question"])
def test_half_letters_go_to_no_server(option: str, port: int, rows: Path, capsys: Captured) -> None:
    words = ["batch", "rows.jsonl", "-o", "out.jsonl", "--server", f"http://127.0.0.1:{port}/good", option, "\ud800"]
    assert "not UTF-8 text" in refused(words, capsys)


def test_a_row_of_half_letters_is_that_rows_error(port: int, rows: Path, capsys: Captured) -> None:
    Path("rows.jsonl").write_text('{"question": "a \\ud800"}\n{"question": "What?"}\n')
    assert run(["batch", "rows.jsonl", "-o", "out.jsonl", "--server", f"http://127.0.0.1:{port}/good"]) == 0
    first, second = map(json.loads, Path("out.jsonl").read_text().splitlines())
    assert "half a letter" in first["error"]["message"]
    assert second["answer"] == "red"


def test_a_threshold_that_is_no_number(rows: Path, capsys: Captured) -> None:
    words = ["ask", "picture.png", "What?", "--model", "nothing", "--fallback", "full", "--threshold", "nan"]
    assert "NaN compares with nothing" in refused(words, capsys)


@pytest.mark.parametrize(
    "change",
    [
        None,
        {"vision_feature_layer": [-2, "x"]},
        {"vision_config": {"patch_size": 0}},
        {"vision_config": {"hidden_size": -4}},
    ],
    ids=["deep", "layers", "no pixels", "negative"],
)
def test_advice_about_a_config_of_no_model(change: dict[str, object] | None, rows: Path, capsys: Captured) -> None:
    path = save_small(rows / "model") / "config.json"
    config = json.loads(path.read_text())
    for name, value in (change or {}).items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    path.write_text("[" * 5000 + "]" * 5000 if change is None else json.dumps(config))
    assert "config.json" in refused(["advise", "model"], capsys)


@pytest.mark.parametrize("name", ["a\0b", "~nobody-has-this-name/x", "\ud800"], ids=ascii)
def test_advice_about_a_path_that_is_none(name: str, rows: Path, capsys: Captured) -> None:
    refused(["advise", name], capsys)


def test_a_checkpoint_that_cannot_be_asked_is_not_served(rows: Path, capsys: Captured) -> None:
    path = save_small(rows / "model") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_token_index": -(10**40)}))
    with torch.random.fork_rng():
        err = refused(["serve", "model", "--port", "0", "--engine", "transformers"], capsys)
    assert "check its config" in err


def test_a_placeholder_that_no_tensor_can_hold_is_refused_when_the_model_is_loaded(
    rows: Path, capsys: Captured
) -> None:
    path = save_small(rows / "model") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_token_index": -(10**40)}))
    words = ["eval", "suite", "--n", "1", "--method", "random", "--budget", "3", "--model", "model"]
    assert "check its config" in refused(words, capsys)
