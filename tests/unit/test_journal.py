"""The journal of finished rows: what is on the disk counts once, what is half written does not count."""

from __future__ import annotations

import errno
import json
import os
import subprocess
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


def test_every_flipped_byte_is_found(path: Path) -> None:
    """It is named, or, at the very end, its batch is asked again; no row ever comes back with another value."""
    fill(path, [0, 1], [2])
    whole = path.read_bytes()
    rows = {0: {"answer": "é0"}, 1: {"answer": "é1"}, 2: {"answer": "é2"}}
    asked_again = 0
    for place in range(len(whole)):
        for bit in (1, 16, 128) if place % 5 == 0 else (1,):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            try:
                with Journal(path, CONFIG) as journal:
                    found = {row: journal.get("task", row) for row in rows}
            except (ConfigError, InputError):
                continue
            assert all(value in (None, rows[row]) for row, value in found.items()), place
            asked_again += 1
    assert asked_again < 10


def test_a_damaged_line_can_be_deleted(path: Path) -> None:
    fill(path, [0, 1], [2], [3])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2].replace("é1".encode(), "é7".encode()), *lines[3:]]))
    with pytest.raises(InputError, match=r"line 3 .* is damaged: delete that line to have its question asked again"):
        Journal(path, CONFIG)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    assert held(path) == [0, 2, 3]
    fill(path, [1])
    assert held(path) == [0, 1, 2, 3]


def test_a_journal_without_checksums_is_read_and_written_on(path: Path) -> None:
    fill(path, [0, 1], [2])
    old = []
    for raw in path.read_text().splitlines():
        line = json.loads(raw)
        old.append(
            json.dumps({key: value for key, value in line.items() if key not in ("sum", "sums")}, ensure_ascii=False)
        )
    path.write_text("\n".join(old) + "\n")
    assert held(path) == [0, 1, 2]
    fill(path, [3])
    assert held(path) == [0, 1, 2, 3]
    whole = path.read_bytes()
    path.write_bytes(whole.replace("é3".encode(), "é4".encode()))
    with pytest.raises(InputError, match=r"line 5 .* is damaged"):
        Journal(path, CONFIG)
    path.write_bytes(whole.replace(b'"sum"', b'"sun"'))
    with pytest.raises(InputError, match=r"line 5 .* is damaged"):
        Journal(path, CONFIG)


@pytest.mark.parametrize(
    "device", ["/dev/null", "/dev/zero", "/dev/full", "pipe", "loop", "dangling", "hard-photo", "read-only"]
)
def test_what_is_no_regular_file_is_no_journal(device: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "photo").write_bytes(b"photo" * 100)
    os.link(tmp_path / "photo", tmp_path / "hard-photo")
    (tmp_path / "read-only").touch(mode=0o444)
    with pytest.raises(InputError, match="journal") as caught:
        Journal(tmp_path / device, CONFIG)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "photo").read_bytes() == b"photo" * 100


def test_a_file_system_that_is_full(tmp_path: Path) -> None:
    """A real one: what does not fit does not count, and after something is removed the run goes on."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        (place / "ballast").write_bytes(b"x" * 40_000)
        path, row, done = place / "run.jsonl", {"answer": "x" * 1000}, 0
        with Journal(path, CONFIG) as journal:
            with pytest.raises(InputError, match=r"cannot write the journal .*No space left on device.*free space"):  # noqa: PT012
                while True:
                    journal.add("task", {2 * done: row, 2 * done + 1: row})
                    done += 1
            assert 0 < done < 20
            assert journal.get("task", 2 * done) is None
            (place / "ballast").unlink()
            journal.add("task", {2 * done: row, 2 * done + 1: row})
        assert held(path) == list(range(2 * done + 2))
        (place / "ballast").write_bytes(b"x" * (os.statvfs(place).f_bavail * os.statvfs(place).f_bsize))
        with pytest.raises(InputError, match="No space left on device"):
            Journal(place / "new.jsonl", CONFIG)
    finally:
        subprocess.run(["umount", str(place)], check=True)
