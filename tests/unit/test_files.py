"""A user's files: opened in one place, written beside and renamed, never over what is read; leftovers of the killed go."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimkit.config import load_config
from trimkit.errors import ConfigError, InputError, TrimkitError
from trimkit.io import leftovers
from trimkit.io.directories import built
from trimkit.io.files import check_writable, resolved, same_file, write_atomically
from trimkit.io.numbers import check_whole, parse_shares, parse_whole_numbers
from trimkit.io.reading import check_checkpoint, checkpoint_files, read_bytes, read_json, read_text
from trimkit.io.settings import clip_inside, load_settings
from trimkit.io.text import MAX_DEPTH, json_text, parse_json, shorten


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_new_file_has_the_mode_that_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    write_atomically(tmp_path / "new", lambda file: file.write(b"x"))
    assert mode(tmp_path / "new") == 0o666 & ~umask


@pytest.mark.parametrize("old", [0o600, 0o640, 0o644, 0o666, 0o755])
def test_a_replaced_file_keeps_its_mode(old: int, umask: int, tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"old")
    path.chmod(old)
    seen = []
    write_atomically(
        path, lambda file: seen.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode)) or file.write(b"new")
    )
    assert (mode(path), path.read_bytes()) == (old, b"new")
    assert seen[0] & 0o077 == 0, "private while it is written"


def test_a_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"old")
    try:
        os.chown(path, 12345, 12345)
    except PermissionError:
        pytest.skip("only root may give a file away")
    write_atomically(path, lambda file: file.write(b"new"))
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12345)


def test_a_read_only_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_bytes(b"mine")
    path.chmod(0o444)
    with pytest.raises(InputError, match="read-only"):
        check_writable(path)
    with pytest.raises(InputError, match="read-only"):
        write_atomically(path, lambda file: file.write(b"x"))
    assert (path.read_bytes(), mode(path)) == (b"mine", 0o444)


def test_a_link_is_followed_to_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "real").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("place/real")
    assert check_writable(link) == link
    write_atomically(link, lambda file: file.write(b"new"))
    assert link.is_symlink()
    assert (tmp_path / "place" / "real").read_bytes() == b"new"


@pytest.mark.parametrize("to", ["loop", "nowhere", "a/b/c"])
def test_links_that_lead_nowhere_are_found_before_the_work(to: str, tmp_path: Path) -> None:
    link = tmp_path / "loop"
    link.symlink_to(to)
    with pytest.raises(InputError, match="leads nowhere"):
        check_writable(link)


@pytest.mark.parametrize("name", ["x" * 300, "a." + "x" * 254, "a\0b", "/proc/new", "/no/such/place", ""])
def test_places_that_take_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        check_writable(name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_that_a_directory_takes(tmp_path: Path) -> None:
    path = check_writable(tmp_path / ("a." + "x" * 253))
    write_atomically(path, lambda file: file.write(b"x"))
    assert path.read_bytes() == b"x"


def test_what_is_read_is_never_written_over(tmp_path: Path) -> None:
    photo, other = tmp_path / "photo", tmp_path / "other"
    photo.write_bytes(b"photo")
    other.write_bytes(b"other")
    (tmp_path / "soft").symlink_to("photo")
    os.link(photo, tmp_path / "hard")
    (tmp_path / "below").symlink_to(".")
    for name in ("photo", "soft", "hard", "below/photo", "./photo"):
        with pytest.raises(InputError, match=r"the command uses .*photo"):
            check_writable(tmp_path / name, [None, other, photo])
    assert check_writable(photo, [None, other, tmp_path / "not-there"]) == photo
    assert same_file(tmp_path / "new", tmp_path / "below" / "new"), "neither is there yet"


def test_pipes_devices_and_giants_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**41)
    (tmp_path / "zero").symlink_to("/dev/zero")
    started = time.monotonic()
    cases = {
        "pipe": "not a regular",
        "sparse": "larger than",
        "zero": "not a regular",
        ".": "[Ii]s a directory",
        "no": "No such",
    }
    for name, cause in cases.items():
        for read in (read_bytes, read_text, read_json, load_config):
            with pytest.raises(TrimkitError, match=cause) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)
    for device in ("/dev/zero", "/dev/null", "/dev/tty", "/proc/self/mem"):
        with pytest.raises(InputError):
            read_bytes(device)
    assert time.monotonic() - started < 5


def test_text_is_utf8(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbf\xc3\xa9")
    assert read_text(path) == "é"
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8 text from byte 0 on"):
        read_text(path)


@pytest.mark.parametrize("level", [100, 900, 5000, 200_000])
def test_deep_nesting(level: int, tmp_path: Path) -> None:
    for text in ("[" * level + "]" * level, '{"a":' * level + "1" + "}" * level, "[" * level):
        with pytest.raises(ValueError, match=f"nested more than {MAX_DEPTH}"):
            parse_json(text)
    (tmp_path / "c.json").write_text('{"version": 1, "reduce": ' + "[" * level + "]" * level + "}")
    with pytest.raises(ConfigError, match="nested more than 64 levels deep"):
        load_config(tmp_path / "c.json")
    (tmp_path / "trimkit.json").write_text('{"sign": ' + "[" * level + "]" * level + "}")
    with pytest.raises(ConfigError, match="nested more than 64 levels deep"):
        load_settings(tmp_path)


def test_brackets_in_strings_are_no_nesting() -> None:
    assert parse_json('"' + "[" * 500 + '"') == "[" * 500
    assert parse_json('["\\"' + "[" * 500 + '", [1]]') == ['"' + "[" * 500, [1]]
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None


@pytest.mark.parametrize("digits", ["9" * 40, "-" + "9" * 40, "9" * 5000, str(2**63)])
def test_integers_of_many_digits(digits: str) -> None:
    with pytest.raises(ValueError, match="too large"):
        parse_json(f'{{"a": {digits}}}')
    with pytest.raises(ConfigError) as caught:
        check_whole("n", int(digits[:4000]), 1, 1000)
    assert len(str(caught.value)) < 120
    assert parse_json(str(2**63 - 1)) == 2**63 - 1


def test_lists_of_numbers() -> None:
    assert parse_whole_numbers("--x", "1, 8,32") == (1, 8, 32)
    assert parse_shares("--x", "1.0, .5") == (1.0, 0.5)
    for text in ("", "1,", "x", "1e3", "9" * 5000):
        with pytest.raises(ConfigError, match="--x"):
            parse_whole_numbers("--x", text)
    for text in ("", "nan", "inf", "1e400", "x"):
        with pytest.raises(ConfigError, match="--x"):
            parse_shares("--x", text)


def test_json_is_written_in_letters_that_are_there() -> None:
    assert json_text({"a": "é"}) == '{\n  "a": "é"\n}\n'
    assert json_text({"a": "é"}, "ascii") == '{\n  "a": "\\u00e9"\n}\n'
    assert json_text({"a": "\ud800"}) == '{\n  "a": "\\ud800"\n}\n'


def test_long_names_lose_their_middle() -> None:
    for name in (f"'{'x' * 300}'", "x" * 300, f"'{'a b ' * 100}'"):
        line = shorten(f"unknown {name}: choose another")
        assert len(line) < 200
        assert line.startswith("unknown ")
        assert line.endswith(": choose another")
    assert shorten("short 'names' stay") == "short 'names' stay"


def leave_behind(folder: Path, kind: str) -> Path:
    """What a process that was killed in the middle of its writing leaves."""
    code = f"""
import os, pathlib, sys, time
from trimkit.io.files import write_atomically
from trimkit.io.directories import built
def stop(*_):
    print("there", flush=True); time.sleep(600)
folder = pathlib.Path({str(folder)!r})
if {kind!r} == "file":
    write_atomically(folder / "target", stop)
else:
    with built(folder / "target") as temporary:
        (temporary / "weights").write_bytes(b"x" * 1000); stop()
"""
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "there\n"
    (left,) = folder.glob(".trimkit-*")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leftovers, "_SETTLED", 0.0)
        assert leftovers.sweep(folder) == [], "its process lives"
    assert left.exists()
    running.send_signal(signal.SIGKILL)
    running.communicate()
    return left


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_leftovers_of_a_killed_process_go(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = leave_behind(tmp_path, kind)
    others = [".trimkit-abcdefgh", ".trimkit-" + "0" * 16 + "-" + "0" * 8, ".trimkit", "trimkit-x"]
    for name in others:
        (tmp_path / name).mkdir()
    assert leftovers.sweep(tmp_path) == [], "so new that its lock may not be there yet"
    monkeypatch.setattr(leftovers, "_SETTLED", 0.0)
    if kind == "file":
        write_atomically(tmp_path / "next", lambda file: file.write(b"x"))
    else:
        assert leftovers.sweep(tmp_path) == [left]
    assert not left.exists()
    assert all((tmp_path / name).is_dir() for name in others), "somebody else's"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        write_atomically(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_without_end(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / ".git" / "pipe")
    check_checkpoint(tmp_path)
    assert {path.name for path in checkpoint_files(tmp_path)} == {"config.json", "dangling"}
    (tmp_path / "clip").mkdir()
    os.mkfifo(tmp_path / "clip" / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        check_checkpoint(tmp_path)


def test_a_clip_lies_within_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "clip").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (folder / "link").symlink_to("../other")
    assert clip_inside(folder, "clip") == folder / "clip"
    for name in (
        "../other",
        str(tmp_path / "other"),
        "link",
        ".",
        "",
        "no",
        "owner/name",
        7,
        None,
        "a\0b",
        "clip/../..",
    ):
        assert clip_inside(folder, name) is None, name


@pytest.mark.parametrize("beside", [False, True])
def test_directories_made_on_the_way_go_where_the_work_fails(tmp_path: Path, beside: bool) -> None:
    """But not those in which somebody else has put something."""

    def fail() -> None:
        with built(tmp_path / "new" / "deeper" / "target") as temporary:
            (temporary / "half").write_text("")
            if beside:
                (tmp_path / "new" / "theirs").write_text("")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert sorted(path.name for path in tmp_path.rglob("*")) == (["new", "theirs"] if beside else [])


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Path.resolve leaves a loop as it is")
def test_a_loop_of_links_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="loop of links"):
        resolved(tmp_path / "loop")
