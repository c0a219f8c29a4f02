"""The commands on a checkpoint of the user's own, without a network: scorer, exported settings, several pictures, videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import trimkit
from tests.checkpoint import save_small
from tests.cli.conftest import Cli
from tests.cli.test_errors import assert_one_line
from trimkit.cli import _asking
from trimkit.demo import demo_model_path, sample_images

CLIP = str(demo_model_path() / "clip")
SHORT = ("--max-new-tokens", "1", "--json")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """16 tokens a picture, so that several fit."""
    return str(save_small(tmp_path_factory.mktemp("checkpoints") / "small"))


@pytest.fixture
def colors(tmp_path: Path) -> list[str]:
    paths = []
    for number, color in enumerate(("red", "green", "blue")):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (60, 60), color).save(paths[-1])
    return paths


def test_without_a_scorer_the_option_is_named(cli: Cli, picture: str, llava_next_checkpoint: Path) -> None:
    outcome = cli("ask", picture, "What?", "--model", str(llava_next_checkpoint))
    assert_one_line(outcome, "--scorer", "CLIP")
    assert "scorer=" not in outcome.err


def test_with_one_it_answers(cli: Cli, picture: str, llava_next_checkpoint: Path, tmp_path: Path) -> None:
    line = (picture, "What?", "--model", str(llava_next_checkpoint), "--scorer", CLIP, "--budget", "0.5", *SHORT)
    asked = json.loads(cli("ask", *line).out)
    assert asked["image_tokens_kept"] == asked["image_tokens_full"] // 2
    drawn = cli("show", *line, "-o", str(tmp_path / "drawn.png"))
    assert (drawn.code, drawn.err) == (0, "")


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "scenes", "--n", "1"),
        ("eval", "dialogues", "--n", "1"),
        ("eval", "suite", "--n", "1", "--method", "trim", "--budget", "8"),
        ("bench", "--device", "cpu", "--repeats", "1", "--budget", "8"),
    ],
    ids=" ".join,
)
def test_every_command_takes_a_scorer(command: tuple[str, ...], cli: Cli, no_text_tower: Path) -> None:
    line = (*command, "--model", str(no_text_tower), "--json")
    assert_one_line(cli(*line), "scorer")
    assert cli(*line, "--scorer", CLIP).code == 0


def test_calibrate_takes_a_scorer(cli: Cli, no_text_tower: Path, colors: list[str]) -> None:
    line = ("calibrate", "--images", str(Path(colors[0]).parent), "--model", str(no_text_tower), "--json")
    quick = ("--max-images", "1", "--per-image", "1", "--max-new-tokens", "1")
    assert_one_line(cli(*line, *quick), "--scorer")
    assert cli(*line, *quick, "--scorer", CLIP).code == 0


def test_a_shape_brings_its_own_scorer(cli: Cli) -> None:
    assert_one_line(cli("bench", "--random", "small", "--scorer", CLIP), "leave --scorer out")


def test_export_refuses_what_could_not_generate(cli: Cli, llava_next_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_one_line(cli("export", str(llava_next_checkpoint), "-o", str(out)), "needs a text scorer", "--scorer")
    assert not out.exists()
    with pytest.raises(trimkit.ConfigError, match="scorer="):
        trimkit.export(llava_next_checkpoint, out)
    assert cli("export", str(llava_next_checkpoint), "-o", str(out), "--method", "random", "--budget", "9").code == 0


def test_ask_reduces_as_an_exported_checkpoint_says(
    cli: Cli, picture: str, llava_next_checkpoint: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    assert cli("export", str(llava_next_checkpoint), "-o", out, "--scorer", CLIP, "--budget", "9").code == 0
    line = ("ask", picture, "What?", "--model", out, *SHORT)
    assert json.loads(cli(*line).out)["image_tokens_kept"] == 9
    assert json.loads(cli(*line, "--budget", "5").out)["image_tokens_kept"] == 5
    assert json.loads(cli(*line, "--method", "random").out)["image_tokens_kept"] == 9, "another method, as many tokens"
    assert "random" in cli(*line[:-1], "--method", "random", "--budget", "3").out
    arms = json.loads(cli("bench", "--model", out, "--device", "cpu", "--repeats", "1", "--json").out)["arms"]
    assert [arm["image_tokens"] for arm in arms][1:] == [9]


def test_what_an_exported_checkpoint_says_is_exported_and_calibrated(
    cli: Cli, small: str, colors: list[str], tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    own = ("--method", "trim", "--set", "aggregate=none", "--scorer", CLIP, "--budget", "5")
    assert cli("export", small, "-o", out, *own).code == 0
    line = ("--images", str(Path(colors[0]).parent), "--max-images", "1", "--per-image", "1", "--max-new-tokens", "1")
    again = json.loads(cli("export", out, "-o", str(tmp_path / "again"), "--budget", "7", "--json").out)["reduce"]
    assert (again["method"], again["aggregate"], again["budget"]) == ("trim", "none", 7)
    assert trimkit.load_settings(tmp_path / "again")["reduce"]["budget"] == 7
    said = cli("calibrate", *line, "--model", out, "--json")
    assert said.err == ""
    assert json.loads(said.out)["config"]["reduce"]["aggregate"] == "none"


def test_a_directory_named_demo_is_not_the_packaged_model(
    cli: Cli, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("export", small, "-o", str(tmp_path / "demo"), "--method", "uniform", "--budget", "9").code == 0
    monkeypatch.chdir(tmp_path)
    assert "trim" in cli("ask", "scene1", "What?", "--model", "demo", "--max-new-tokens", "1").out


def test_broken_settings_of_an_exported_checkpoint(cli: Cli, picture: str, broken_copy: Callable[[str], Path]) -> None:
    folder = broken_copy("whole")
    (folder / "trimkit.json").write_text('{"reduce": {"method": "trimm"}}')
    assert_one_line(cli("ask", picture, "What?", "--model", str(folder)), "trimkit.json", "did you mean 'trim'")


def test_export_in_another_dtype(cli: Cli, small: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    line = ("export", small, "--method", "uniform", "--budget", "9", "--dtype", "bfloat16")
    assert_one_line(cli(*line), "-o")
    assert cli(*line, "-o", str(tmp_path / "out")).code == 0
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_several_pictures_go_into_one_prompt(cli: Cli, small: str, colors: list[str], tmp_path: Path) -> None:
    line = (*colors, "Which is red?", "--model", small, "--method", "random", "--budget", "4", *SHORT)
    asked = json.loads(cli("ask", *line).out)
    assert (asked["image_tokens_full"], asked["image_tokens_kept"]) == (3 * 16, 3 * 4)
    drawn = tmp_path / "drawn.png"
    assert cli("show", *line, "-o", str(drawn)).code == 0
    with Image.open(drawn) as sheet:
        assert sheet.height > 3 * 300, "a row of panels for each"


@pytest.mark.parametrize("kind", ["folder", "gif", "webp"])
def test_a_video_is_its_frames(kind: str, cli: Cli, small: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 40), (20 * number, 0, 0)) for number in range(10)]
    path = tmp_path / f"video.{kind}"
    if kind == "folder":
        path.mkdir()
        for number, frame in enumerate(frames):
            frame.save(path / f"{number:03d}.png")
    else:
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    line = ("ask", str(path), "What moves?", "--model", small, "--method", "random", "--budget", "4", *SHORT)
    assert json.loads(cli(*line).out)["image_tokens_full"] == 8 * 16
    assert json.loads(cli(*line, "--frames", "2").out)["image_tokens_full"] == 2 * 16
    reds = [picture.getpixel((20, 20))[0] for picture in _asking.read_words([str(path), "What?"], 2).pictures]
    assert reds == [40, 140], "frames 3 and 8 of ten: the middles of both halves"


def test_other_videos_and_many_pictures_are_one_line(cli: Cli, colors: list[str], tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"\0\0\0 ftypisom")
    assert_one_line(cli("ask", str(video), "What?"), "is a video", "ffmpeg")
    assert_one_line(cli("ask", *colors, *colors, "What?"), "model has room for", "fewer")
    (tmp_path / "none").mkdir()
    assert_one_line(cli("ask", str(tmp_path / "none"), "What?"), "directory without pictures")


def test_a_forgotten_question(cli: Cli, colors: list[str]) -> None:
    for words in (colors[:1], colors[:2], [*colors[:1], "sample:scene1"], ["http://127.0.0.1:1/x.png"]):
        assert_one_line(cli("ask", *words), "no question")


def test_the_embedded_model_says_what_it_knows(cli: Cli, picture: str) -> None:
    outcome = cli("ask", picture, "Is there a dog?", "--max-new-tokens", "1")
    answer = next(line for line in outcome.out.splitlines() if line.startswith("trim "))
    assert "knows only its own rendered scenes" in answer
    assert "--model" in answer
    assert "rendered scenes" in cli("ask", picture, "Is there a dog?", *SHORT).err
    for own in ("scene1", str(next(iter(sample_images().values())).path)):
        assert "rendered scenes" not in cli("ask", own, "Is there a dog?", "--max-new-tokens", "1").out


def test_other_models_do_not(cli: Cli, picture: str, small: str) -> None:
    line = ("ask", picture, "What?", "--model", small, "--method", "random", "--budget", "4", "--max-new-tokens", "1")
    assert "rendered" not in cli(*line).out


def test_a_crop_is_said_in_one_line(cli: Cli, small: str, tmp_path: Path) -> None:
    shots: dict[str, tuple[int, int]] = {"wide.png": (3000, 100), "screen.png": (1280, 720), "square.png": (300, 300)}
    for name, size in shots.items():
        Image.new("RGB", size, "white").save(tmp_path / name)
    line = ("--model", small, "--method", "random", "--budget", "4", "--max-new-tokens", "1")

    def note(name: str) -> list[str]:
        outcome = cli("ask", str(tmp_path / name), "Where is the button?", *line)
        return [each for each in outcome.out.splitlines() if each.startswith("note")]

    assert "wide.png (3000 x 100) the model sees 3%" in note("wide.png")[0]
    assert "the model sees 57%" in note("screen.png")[0], "56 of 99 columns, 1280 x 720 scaled to 56 rows"
    assert note("square.png") == []


def test_models_that_pad_or_tile_crop_nothing(cli: Cli, llava_next_checkpoint: Path, tmp_path: Path) -> None:
    Image.new("RGB", (900, 100), "white").save(tmp_path / "wide.png")
    line = ("--model", str(llava_next_checkpoint), "--method", "random", "--budget", "4", "--max-new-tokens", "1")
    assert "cropped" not in cli("ask", str(tmp_path / "wide.png"), "What?", *line).out


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("1", "[1 of 16 image tokens, budget 1 token,"),
        ("1.0", "[16 of 16 image tokens, budget all tokens (a fraction of 1.0),"),
    ],
)
def test_one_and_all_are_told_apart(budget: str, words: str, cli: Cli, small: str, picture: str) -> None:
    line = (
        "ask",
        picture,
        "What?",
        "--model",
        small,
        "--method",
        "random",
        "--budget",
        budget,
        "--max-new-tokens",
        "1",
    )
    assert words in cli(*line).out


def test_words_of_budgets() -> None:
    said: dict[Any, str] = {
        121: "121 tokens",
        0.25: "0.25 of the tokens",
        "iqr": "iqr",
        "top-p:0.9": "top-p:0.9",
        "auto:0.5": "auto:0.5",
    }
    assert {given: trimkit.parse_budget(given).in_words() for given in said} == said
