"""The journal of finished rows: what is on the disk counts once, what is half written does not count."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from trimkit.errors import ConfigError, InputError
from trimkit.eval.journal import Journal, fingerprint

CONFIG = {"model": "demo", "seed": 1, "budget": [0.2, None]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def fill(path: Path, *batches: list[int]) -> None:
    with Journal(path, CONFIG) as journal:
        for batch in batches:
            journal.add("task", {row: {"answer": f"é{row}"} for row in batch})


def held(path: Path) -> list[int]:
    with Journal(path, CONFIG) as journal:
        rows = [row for row in range(100) if journal.get("task", row) is not None]
        assert len(journal) == len(rows)
    return rows


def test_rows_come_back(path: Path) -> None:
    fill(path, [0, 1], [2])
    with Journal(path, dict(reversed(CONFIG.items()))) as journal:
        assert journal.get("task", 1) == journal.get("task", "1") == {"answer": "é1"}
        assert journal.get("task", 3) is None
        assert journal.get("other", 1) is None


@pytest.mark.parametrize("gone", range(1, 400, 37))
def test_a_torn_end_takes_its_whole_batch_with_it(gone: int, path: Path) -> None:
    fill(path, [0, 1, 2], [3], [4, 5, 6, 7])
    whole = path.read_bytes()
    path.write_bytes(whole[:-gone])
    left = held(path)
    assert left in ([0, 1, 2, 3], [0, 1, 2], [])
    fill(path, [row for row in range(8) if row not in left])
    assert held(path) == list(range(8))
    ids = [json.loads(line)["id"] for line in path.read_bytes().splitlines()[1:]]
    assert sorted(ids) == sorted(map(str, range(8)))


def test_a_torn_head_is_written_again(path: Path) -> None:
    fill(path)
    head = path.read_bytes()
    for length in range(0, len(head), 9):
        path.write_bytes(head[:length])
        fill(path)
        assert path.read_bytes() == head


@pytest.mark.parametrize("text", ["notes that matter", "{}\n", "[1]\n[2]\n", '{"journal": "other"}\n', "\0\0\n"])
def test_somebodys_file_stays(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"journal"):
        Journal(path, CONFIG)
    assert path.read_text(encoding="utf-8") == text


def test_other_settings_are_refused(path: Path) -> None:
    fill(path, [1])
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"with seed 1, this run has 2: give the same settings") as raised:
        Journal(path, {**CONFIG, "seed": 2})
    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match="extra"):
        Journal(path, {**CONFIG, "extra": True})
    assert path.read_bytes() == before
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_rows_of_other_settings_are_refused(path: Path, tmp_path: Path) -> None:
    fill(path, [1])
    with Journal(tmp_path / "other.jsonl", {"seed": 2}) as journal:
        journal.add("task", {2: {}})
    path.write_bytes(path.read_bytes() + journal.path.read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(ConfigError, match=r"line 3 .* other settings"):
        Journal(path, CONFIG)


def test_nothing_counts_twice(path: Path) -> None:
    with Journal(path, CONFIG) as journal:
        journal.add("task", {1: {}})
        with pytest.raises(InputError, match="row 1 of task is in the journal"):
            journal.add("task", {2: {}, "1": {}})
        assert len(journal) == 1
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(InputError, match="has row 1 of task twice"):
        Journal(path, CONFIG)


def test_damage_in_the_middle_is_named(path: Path) -> None:
    fill(path, [1], [2], [3])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"#" + lines[2], lines[3]]))
    with pytest.raises(InputError, match=r"line 3 .* is damaged"):
        Journal(path, CONFIG)


def test_one_writer_at_a_time(path: Path) -> None:
    with Journal(path, CONFIG), pytest.raises(InputError, match="in use by another run"):
        Journal(path, CONFIG)
    fill(path, [1])


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "no" / "such.jsonl"):
        with pytest.raises(InputError, match="cannot write the journal"):
            Journal(place, CONFIG)


def test_a_full_disk_is_one_line_and_the_batch_can_be_added_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the batch gets onto the disk: none of it counts, then or later."""
    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2])

    fill(path, [0])
    with Journal(path, CONFIG) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(InputError, match=r"cannot write the journal .*No space left on device.*free space"):
                journal.add("task", {1: {"answer": "a"}, 2: {"answer": "b"}})
        assert journal.get("task", 1) is None
        journal.add("task", {1: {"answer": "a"}, 2: {"answer": "b"}})
    assert held(path) == [0, 1, 2]
