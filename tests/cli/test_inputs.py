"""What a command reads is never written over, and odd files, numbers and names are one line and exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.checkpoint import save_small
from tests.cli.conftest import Cli
from tests.cli.test_errors import assert_one_line
from trimkit.cli import _common
from trimkit.eval.journal import Journal

DIGITS = "9" * 40
CONFIG = '{"version": 1, "reduce": {"method": "random", "budget": 3}}'


@pytest.fixture(autouse=True)
def _nothing_is_loaded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "loads" not in request.keywords:
        monkeypatch.setattr("trimkit.loading._read", lambda *_, **__: pytest.fail("loaded: that is the work"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("small"))


@pytest.fixture
def files(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A directory with one file of each kind, and links to each."""
    monkeypatch.chdir(tmp_path)
    picture = Image.linear_gradient("L").resize((60, 45)).convert("RGB")
    picture.save("photo.png")
    Path("pictures").mkdir()
    picture.save("pictures/one.png")
    for folder, names in (("frames", ("0.png", "1.png", "2.png")), ("scorer", ("scorer.json", "model.safetensors"))):
        Path(folder).mkdir()
        for name in names:
            shutil.copy("photo.png", Path(folder, name))
    Path("config.json").write_text(CONFIG)
    Path("questions.txt").write_text("What is red?\n")
    with Journal("journal.jsonl", {"a": 1}):
        pass
    shutil.copytree(small, "model")
    for name in ("photo.png", "config.json", "questions.txt", "journal.jsonl"):
        stem, suffix = name.split(".")
        os.symlink(name, f"{stem}-soft.{suffix}")
        os.link(name, f"{stem}-hard.{suffix}")
    os.symlink(".", "here")
    capsys.readouterr()  # the bars of saving a model
    return tmp_path


SCENES = ("eval", "scenes", "--n", "1", "--config", "config.json", "-o")
SUITE = ("eval", "suite", "--n", "1", "--method", "random", "--budget", "3", "--config", "config.json", "-o")
CALIBRATE = ("calibrate", "--images", "pictures", "--questions", "questions.txt", "-o")
OVER = {
    "photo": (("show", "photo.png", "What?", "--config", "config.json", "-o"), "photo.png"),
    "photo of show, by another name": (("show", "photo-hard.png", "What?", "-o"), "photo.png"),
    "config of scenes": (SCENES, "config.json"),
    "config of dialogues": (("eval", "dialogues", "--n", "1", "--config", "config.json", "-o"), "config.json"),
    "config of suite": (SUITE, "config.json"),
    "config of bench": (("bench", "--config", "config.json", "-o"), "config.json"),
    "questions": (CALIBRATE, "questions.txt"),
    "journal of scenes": (("eval", "scenes", "--n", "1", "--resume", "journal.jsonl", "-o"), "journal.jsonl"),
    "journal of suite": (("eval", "suite", "--n", "1", "--journal", "journal.jsonl", "-o"), "journal.jsonl"),
}


@pytest.mark.parametrize("link", ["", "-soft", "-hard", "here/"])
@pytest.mark.parametrize("case", OVER)
def test_an_input_is_no_output(case: str, link: str, cli: Cli, files: Path) -> None:
    words, name = OVER[case]
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    stem, suffix = name.split(".")
    output = f"here/{name}" if link == "here/" else f"{stem}{link}.{suffix}"
    assert_one_line(cli(*words, output), "cannot write", "the command uses")
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "words",
    [
        (*CALIBRATE, "pictures/one.png"),
        ("eval", "scenes", "--n", "1", "--model", "model", "-o", "model/config.json"),
        ("eval", "scenes", "--n", "1", "--model", "model", "-o", "model/model.safetensors"),
        ("eval", "suite", "--n", "1", "--model", "model", "-o", "model/tokenizer.json"),
        ("bench", "--model", "model", "-o", "model/config.json"),
        ("bench", "-o", "same.svg", "--plot", "same.svg"),
        ("eval", "scenes", "--n", "1", "-o", "new.json", "--resume", "new.json"),
        ("eval", "scenes", "--n", "1", "-o", "new.json", "--resume", "here/new.json"),
        ("eval", "scenes", "--n", "1", "--config", "config.json", "--resume", "config-hard.json"),
        ("eval", "suite", "--n", "1", "--model", "model", "--journal", "model/config.json"),
        ("show", "frames", "What?", "--frames", "1", "-o", "frames/0.png"),
        ("show", "frames", "What?", "--frames", "1", "-o", "frames/2.png"),
        ("calibrate", "--images", "pictures", "--scorer", "scorer", "-o", "scorer/scorer.json"),
        ("calibrate", "--images", "pictures", "--scorer", "scorer", "--risk", "0.3", "-o", "scorer/model.safetensors"),
        ("bench", "--scorer", "scorer", "-o", "scorer/scorer.json"),
        ("eval", "scenes", "--n", "1", "--scorer", "scorer", "-o", "scorer/scorer.json"),
    ],
)
def test_nor_is_a_picture_a_checkpoint_or_another_output(words: tuple[str, ...], cli: Cli, files: Path) -> None:
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    assert_one_line(cli(*words), "cannot write", "the command uses")
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before


def test_a_result_beside_the_checkpoint_may_be_written_again(cli: Cli, files: Path) -> None:
    Path("model/result.json").write_text("{}")
    assert _common.check_output("model/result.json", "config.json", model="model") == Path("model/result.json")


@pytest.mark.parametrize("option", ["-o", "--resume"])
def test_a_loop_of_links_is_found_before_the_work(option: str, cli: Cli, files: Path) -> None:
    os.symlink("loop.json", "loop.json")
    assert_one_line(cli("eval", "scenes", "--n", "1", option, "loop.json"), "leads nowhere")


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero", "/dev/full", "pipe", "."])
def test_a_journal_is_a_regular_file(device: str, cli: Cli, files: Path) -> None:
    os.mkfifo("pipe")
    assert_one_line(cli("eval", "scenes", "--n", "1", "--resume", device), "cannot write the journal")
    assert_one_line(cli("eval", "suite", "--n", "1", "--journal", device), "cannot write the journal")


INPUTS = {
    "config": ("eval", "scenes", "--n", "1", "--config"),
    "questions": ("calibrate", "--images", "pictures", "--questions"),
    "picture": ("ask", "photo.png", "What?", "--config"),
    "resume": ("eval", "scenes", "--n", "1", "--resume"),
}


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "sparse", "/proc/self/mem"])
@pytest.mark.parametrize("case", INPUTS)
def test_pipes_and_devices_are_refused_at_once(case: str, name: str, cli: Cli, files: Path) -> None:
    os.mkfifo("pipe")
    with Path("sparse").open("wb") as file:
        file.truncate(2**41)
    started = time.monotonic()
    assert_one_line(cli(*INPUTS[case], name))
    if case == "picture":
        assert_one_line(cli("ask", name, "What?"))
        assert_one_line(cli("ask", "photo.png", "What?", "--model", name))
    assert time.monotonic() - started < 10


DEEP = "[" * 100_000
NUMBERS = {
    "deep set": (("ask", "photo.png", "What?", "--set", f"temperature={DEEP}"), "nested more than 64"),
    "digits in set": (("ask", "photo.png", "What?", "--set", f"temperature={DIGITS}"), "too large"),
    "digits in grid": (("eval", "suite", "--n", "1", "--grid", f"random seed={DIGITS}"), "too large"),
    "deep grid": (("eval", "suite", "--n", "1", "--grid", f"random seed={DEEP}"), "nested more than 64"),
    "n": (("eval", "suite", "--n", str(10**12)), "n 1000000000000 is outside 1 to 1000000"),
    "n of scenes": (("eval", "scenes", "--n", DIGITS), "is outside 1 to 1000000"),
    "n of thousands of digits": (("eval", "scenes", "--n", "9" * 4000), "is outside 1 to 1000000"),
    "batch": (("eval", "suite", "--n", "1", "--batch-size", "100000"), "batch size 100000 is outside 1 to 1024"),
    "batch of dialogues": (("eval", "dialogues", "--n", "1", "--batch-size", "100000"), "outside 1 to 1024"),
    "seed": (("eval", "scenes", "--n", "1", "--seed", DIGITS), "is outside 0 to"),
    "workers": (("eval", "suite", "--n", "1", "--workers", "100000"), "workers 100000 is outside 1 to 256"),
    "new tokens": (("ask", "photo.png", "What?", "--max-new-tokens", DIGITS), "--max-new-tokens"),
    "images": (("calibrate", "--images", "pictures", "--max-images", DIGITS), "--max-images"),
    "calibrate batch": (("calibrate", "--images", "pictures", "--batch-size", "100000"), "--batch-size"),
    "bench batch": (("bench", "--batch-size", DIGITS), "batch size"),
    "bench list": (("bench", "--new-tokens", "1," + "9" * 5000), "--new-tokens"),
    "bench share": (("bench", "--tower-keep", "nan"), "--tower-keep"),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_and_nesting(case: str, cli: Cli, files: Path) -> None:
    words, part = NUMBERS[case]
    outcome = cli(*words)
    assert_one_line(outcome, part)
    assert len(outcome.err) < 500


@pytest.mark.parametrize("letter", [0xDCFF, 0xD800], ids=["bytes", "half"])
def test_questions_that_are_no_text(letter: int, cli: Cli, files: Path) -> None:
    question = f"What {chr(letter)}?"
    assert_one_line(cli("ask", "photo.png", question), "is not UTF-8 text")
    assert_one_line(cli("show", "photo.png", question), "is not UTF-8 text")
    assert_one_line(cli("eval", "suite", "--n", "1", "--query", question), "is not UTF-8 text")
    Path("q.jsonl").write_text(json.dumps({"question": question}))
    assert_one_line(cli("calibrate", "--images", "pictures", "--questions", "q.jsonl"), "line 1", "half a character")
    Path("q.txt").write_bytes(b"What \xff?\n")
    assert_one_line(cli("calibrate", "--images", "pictures", "--questions", "q.txt"), "not UTF-8 text")
    assert_one_line(cli("ask", "photo.png", "What?", "--set", f"aggregate={question}"), "is not UTF-8 text")


@pytest.mark.parametrize("name", ["x" * 300, "\udcff" * 300, "x" * 5000])
def test_long_names_are_shortened(name: str, cli: Cli, files: Path) -> None:
    for words in (
        ("ask", name, "What?"),
        ("ask", "photo.png", "What?", "--method", name),
        ("ask", "photo.png", "What?", "--model", name),
        ("ask", "photo.png", "What?", "--device", name),
        ("ask", "photo.png", "What?", "--budget", name),
        ("ask", "photo.png", "What?", "--set", name),
        ("ask", "photo.png", "What?", "--set", f"{name}=1"),
        ("ask", "photo.png", "What?", "--config", name),
        ("ask", "photo.png", "What?", f"--{name}"),
        ("ask", "sample:" + name),
        ("show", "photo.png", "What?", "-o", name + ".png"),
        ("eval", "scenes", "--n", "1", "--resume", name),
        ("bench", name),
        (name,),
    ):
        outcome = cli(*words)
        assert_one_line(outcome)
        assert len(outcome.err) < 600, words[:2]


@pytest.mark.loads
@pytest.mark.parametrize("layer", [99, -99, [-2, 99], "x"])
def test_a_layer_that_the_tower_does_not_have(layer: object, cli: Cli, files: Path) -> None:
    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps({**config, "vision_feature_layer": layer}))
    outcome = cli("ask", "photo.png", "What?", "--model", "model", "--method", "random", "--budget", "3")
    assert_one_line(outcome)
    assert "vision_feature_layer" in outcome.err or "cannot load model" in outcome.err


@pytest.mark.loads
@pytest.mark.parametrize("clip", ["../clip", "ABSOLUTE", "no-such-owner/no-such-clip", "link", 7])
def test_a_clip_from_elsewhere_needs_a_word(clip: object, cli: Cli, files: Path) -> None:
    from trimkit.demo import demo_model_path

    shutil.copytree(demo_model_path() / "clip", "clip")
    os.symlink("../clip", "model/link")
    named = str(files / "clip") if clip == "ABSOLUTE" else clip
    Path("model/trimkit.json").write_text(json.dumps({"clip": named}))
    outcome = cli("ask", "photo.png", "What?", "--model", "model", "--method", "trim")
    assert_one_line(outcome, "no directory within the checkpoint", "--scorer")


@pytest.mark.loads
def test_a_checkpoint_with_a_pipe(cli: Cli, files: Path) -> None:
    os.mkfifo("model/tokenizer_extra.json")
    started = time.monotonic()
    for words in (("ask", "photo.png", "What?", "--model", "model"), ("export", "model", "-o", "out")):
        assert_one_line(cli(*words), "not a regular file")
    assert time.monotonic() - started < 10
    assert not Path("out").exists()


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line.replace("TRIMKIT", f"{sys.executable} -m trimkit")],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        timeout=300,
    )


@pytest.mark.loads
def test_streams_that_take_nothing(files: Path) -> None:
    closed = shell("TRIMKIT methods --json >&-; echo code $?", files)
    assert (closed.stdout, closed.stderr) == ("code 0\n", "")
    head = shell("TRIMKIT methods --json | head -1; echo codes ${PIPESTATUS[@]}", files)
    assert (head.stdout, head.stderr) == ("[\ncodes 0 0\n", "")
    both = shell("TRIMKIT methods >&- 2>&-; echo code $?", files)
    assert (both.stdout, both.stderr) == ("code 0\n", "")
    full = shell("TRIMKIT methods --json > /dev/full; echo code $?", files)
    assert full.stdout == "code 2\n"
    assert full.stderr.count("\n") == 1
    assert "No space left on device" in full.stderr


@pytest.mark.loads
def test_a_locale_that_knows_ascii_only(files: Path) -> None:
    shutil.copy("photo.png", "phöto.png")
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ask = "TRIMKIT ask phöto.png 'Où est le rond?' --method random --budget 3 --max-new-tokens 1"
    for line in (ask, ask + " --json"):
        done = shell(line, files, **ascii_only)
        said = done.stderr.splitlines()  # with --json, notes on the picture stand there
        assert done.returncode == 0, done
        assert all(line.startswith("trimkit: ") for line in said), done
        assert done.stdout.isascii()
    json.loads(done.stdout)
    refused = shell("TRIMKIT ask 'né.png' 'Où?'", files, **ascii_only)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
