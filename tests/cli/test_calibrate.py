"""``trimkit calibrate``: what it prints and saves, that every command takes the config, and one line for what it cannot do."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import trimkit
from tests.calibration import QUESTIONS, write_checkpoint, write_spots
from tests.cli.conftest import Cli, Outcome
from tests.cli.test_errors import assert_one_line
from trimkit.cli import eval_paper_table
from trimkit.config import Config, Reduction, read_config, save_config

PROFILE = {"sign": -1, "normalize": True, "temperature": 0.5}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "random"))


@pytest.fixture
def config(tmp_path: Path) -> str:
    reduction = Reduction.model_validate({"method": "trim", "budget": 30, "aggregate": "none", "profile": PROFILE})
    return str(save_config(tmp_path / "config.json", Config(reduce=reduction)))


def calibrate(cli: Cli, checkpoint: str, folder: Path, *more: str) -> Outcome:
    return cli("calibrate", "--images", str(folder), "--model", checkpoint, "--max-new-tokens", "1", *more)


def test_saves_a_config_that_the_library_and_ask_take(cli: Cli, checkpoint: str, tmp_path: Path, picture: str) -> None:
    folder = write_spots(tmp_path / "pictures", 2)
    (folder / "bad.png").write_bytes(b"no picture")
    questions, target = tmp_path / "questions.txt", tmp_path / "calibrated.json"
    questions.write_text("\n".join(QUESTIONS))
    few = ("--force",)  # two pictures decide nothing
    outcome = calibrate(cli, checkpoint, folder, "--questions", str(questions), "-o", str(target), "--json", *few)
    assert (outcome.code, outcome.err) == (0, "")
    said = json.loads(outcome.out)
    assert set(said) == {
        *("chosen", "decisions", "candidates", "temperatures", "curve", "notes", "skipped", "settings", "config"),
        *("model", "seconds"),
    }
    assert [each["name"] for each in said["skipped"]] == ["bad.png"]
    assert len(said["candidates"]) == 5
    assert (said["settings"]["pictures"], said["settings"]["pairs"]) == (2, 4)
    assert any("fewer than 8 pictures" in note for note in said["notes"])
    keys = {"divergence", "divergence_ci95", "agreement", "agreement_ci95", "image_tokens_kept", "share", "kl"}
    assert all(keys <= set(arm) for arm in [*said["candidates"], *said["temperatures"], *said["curve"], said["chosen"]])
    assert said["config"] == json.loads(target.read_text())
    loaded = trimkit.load_config(target)
    assert loaded == said["config"]["reduce"]
    chosen = trimkit.get_method(**loaded)
    assert chosen.profile is not None
    assert vars(chosen.profile) == said["chosen"]["profile"]
    asked = cli("ask", picture, "What?", "--model", checkpoint, "--config", str(target), "--max-new-tokens", "1")
    assert (asked.code, asked.err) == (0, "")


def test_table(cli: Cli, checkpoint: str, tmp_path: Path) -> None:
    folder = write_spots(tmp_path / "pictures", 1)
    (folder / "notes.txt").write_text("no picture")
    outcome = calibrate(cli, checkpoint, folder, "--method", "random", "--knee", "--per-image", "1")
    assert outcome.code == 0
    assert outcome.err.startswith("skipped notes.txt: ")
    assert outcome.err.count("\n") == 1
    assert "1 pictures, 1 questions (generic)" in outcome.out
    assert "-o FILE saves a config" in outcome.out
    assert outcome.out.count("tokens (") == 8


@pytest.mark.parametrize("command", ["ask", "show"])
def test_ask_and_show_take_a_config(
    command: str, cli: Cli, checkpoint: str, config: str, picture: str, tmp_path: Path
) -> None:
    line = [command, picture, "What?", "--model", checkpoint, "--config", config, "--max-new-tokens", "1", "--json"]
    line += ["-o", str(tmp_path / "drawn.png")] if command == "show" else []
    assert json.loads(cli(*line).out)["image_tokens_kept"] == 30
    assert json.loads(cli(*line, "--budget", "20").out)["image_tokens_kept"] == 20
    assert json.loads(cli(*line, "--method", "random").out)["image_tokens_kept"] == 30


@pytest.mark.parametrize("command", ["scenes", "dialogues"])
def test_evaluations_take_a_config(command: str, cli: Cli, checkpoint: str, config: str) -> None:
    line = ["eval", command, "--n", "1", "--model", checkpoint, "--config", config, "--json"]
    own = json.loads(cli(*line).out)
    assert own["method"] == "trim"
    assert own["options"]["profile"] == PROFILE
    assert own["options"]["aggregate"] == "none"
    both = json.loads(cli(*line, "--method", "random,trim").out)
    assert [each["method"] for each in both] == ["random", "trim"]
    assert [each["options"]["budget"] for each in both] == [30, 30]
    assert [each["options"]["aggregate"] for each in both] == ["mean", "none"]


def test_bench_takes_a_config(cli: Cli, checkpoint: str, config: str) -> None:
    line = ["bench", "--device", "cpu", "--repeats", "1", "--config", config, "--json"]
    for more, names, budget in (
        (["--model", checkpoint], ["none", "trim"], 30),
        (["--random", "small"], ["none", "trim"], 30),
        (["--model", checkpoint, "--method", "random,trim"], ["none", "random", "trim"], 30),
        (["--model", checkpoint, "--budget", "20"], ["none", "trim"], 20),
    ):
        arms = json.loads(cli(*line, *more).out)["arms"]
        assert [arm["method"] for arm in arms] == names
        assert {arm["image_tokens"] for arm in arms[1:]} == {budget}


def test_the_suite_takes_a_config(cli: Cli, checkpoint: str, config: str) -> None:
    line = ["eval", "suite", "--n", "1", "--model", checkpoint, "--config", config, "--json"]
    arms = json.loads(cli(*line, "--method", "trim,random", "--budget", "default,20").out)["arms"]
    assert [arm["image_tokens_kept_mean"] for arm in arms[1:]] == [30, 20, 30, 20]
    assert [arm["options"]["aggregate"] for arm in arms[1:]] == ["none", "none", "mean", "mean"]
    assert all(arm["options"]["profile"] == PROFILE for arm in arms[1:])
    assert arms[0]["options"]["profile"] is None
    assert_one_line(cli(*line, "--grid", "trim sign=1|-1"), "leave --config out")


def test_the_paper_table_takes_a_config(cli: Cli, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_paper_table, "find_spec", lambda name: True)
    made: list[trimkit.Method] = []

    def stand_in(model: str, methods: list[trimkit.Method], *args: Any, **kwargs: Any) -> dict[str, Any]:
        made.extend(methods)
        return {"columns": ["GQA"], "not_run": []}

    table = types.ModuleType("trimkit.eval.lmms.table")
    monkeypatch.setattr(table, "paper_table", stand_in, raising=False)
    monkeypatch.setitem(sys.modules, table.__name__, table)
    assert cli("eval", "paper-table", "--config", config, "--json").code == 0
    assert cli("eval", "paper-table", "--config", config, "--method", "random", "--json").code == 0
    assert [(each.name, each.budget.to_plain(), each.aggregate) for each in made] == [
        ("trim", 30, "none"),
        ("random", 30, "mean"),
    ]
    assert all(each.profile == trimkit.EncoderProfile(**PROFILE) for each in made)


def test_an_export_takes_a_config_and_holds_its_profile(cli: Cli, checkpoint: str, config: str, tmp_path: Path) -> None:
    outcome = cli("export", checkpoint, "-o", str(tmp_path / "out"), "--config", config)
    assert outcome.code == 0
    reduce = json.loads((tmp_path / "out" / "trimkit.json").read_text())["reduce"]
    assert (reduce["budget"], reduce["profile"]) == (30, PROFILE)


def test_the_profile_of_a_config_is_what_scores(checkpoint: str, config: str) -> None:
    """Which patches stay is what an option sign=-1 would keep, and not what the checkpoint's own profile (+1) says."""
    from tests.calibration import spots
    from trimkit.ask import ask
    from trimkit.loading import load_model

    model, processor = load_model(checkpoint)
    image = spots(1)["00.png"]

    def kept(**options: Any) -> list[int]:
        report = ask(model, processor, image, "What is this?", max_new_tokens=1, **options).report
        assert report is not None
        return list(report.images[0].indices.tolist())

    options = {"method": "trim", "budget": 30, "aggregate": "none"}
    by_config = kept(**trimkit.load_config(config))
    assert by_config == kept(**options, sign=-1, normalize=True)
    assert by_config != kept(**options)


def test_config_round_trip(config: str) -> None:
    read = read_config(config)
    assert read.reduce.build().profile == trimkit.EncoderProfile(**PROFILE)
    assert read == Config.model_validate(json.loads(read.model_dump_json()))


CONFIGS = {
    "missing": (None, "No such file"),
    "no json": ("{", "cannot read config"),
    "a list": ("[]", "not a JSON object"),
    "no reduce": ('{"version": 1}', "reduce"),
    "unknown key": ('{"version": 1, "reduce": {"method": "trim"}, "more": 1}', "unknown key 'more'"),
    "newer": ('{"version": 2, "reduce": {"method": "trim"}}', "version 2, this trimkit reads 1: update"),
    "method": ('{"version": 1, "reduce": {"method": "trimm"}}', "did you mean 'trim'"),
    "option": ('{"version": 1, "reduce": {"method": "trim", "size": 1}}', "no option 'size'"),
    "budget": ('{"version": 1, "reduce": {"method": "trim", "budget": 0}}', "budget"),
    "sign": ('{"version": 1, "reduce": {"method": "trim", "profile": {"sign": 2}}}', "sign 2 is not 1 or -1"),
    "profile": ('{"version": 1, "reduce": {"method": "trim", "profile": {"signs": 1}}}', "profile.signs"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_bad_configs(case: str, cli: Cli, tmp_path: Path, picture: str) -> None:
    text, cause = CONFIGS[case]
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    outcome = cli("ask", picture, "What?", "--config", str(path))
    assert_one_line(outcome, cause, "config.json")


ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "agreement": (["--agreement", "2"], "agreement 2.0 is not a share"),
    "fixed sign": (["--method", "trim-paper"], "sets sign itself"),
    "unknown method": (["--method", "trimm"], "did you mean 'trim'"),
    "output": (["-o", "/no/such/folder/config.json"], "cannot write"),
    "no questions": (["--questions", "/no/such/file.txt"], "cannot read questions"),
    "no pictures": (["--max-images", "0"], "--max-images"),
    "no model": (["--model", "nothing"], "no model directory"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_errors(case: str, cli: Cli, checkpoint: str, tmp_path: Path) -> None:
    arguments, cause = ARGUMENTS[case]
    folder = write_spots(tmp_path, 1)
    assert_one_line(cli("calibrate", "--images", str(folder), "--model", checkpoint, *arguments), cause)


def test_directories_that_serve_nothing(cli: Cli, tmp_path: Path) -> None:
    assert_one_line(cli("calibrate", "--images", str(tmp_path / "gone")), "there is no directory")
    assert_one_line(cli("calibrate", "--images", str(tmp_path)), "no picture that can be read")
    assert_one_line(cli("calibrate"), "--images")


def test_a_model_without_a_text_tower(cli: Cli, no_text_tower: Path, tmp_path: Path) -> None:
    assert_one_line(
        cli("calibrate", "--images", str(write_spots(tmp_path, 1)), "--model", str(no_text_tower)),
        "needs a text scorer",
    )


def test_too_few_pictures_are_saved_only_when_forced(
    cli: Cli, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = write_spots(tmp_path / "pictures", 6), tmp_path / "config.json"
    with monkeypatch.context() as patch:
        patch.setattr("trimkit.cli._common.load", lambda *_: pytest.fail("loaded before it is refused"))
        refused = calibrate(cli, checkpoint, folder, "-o", str(target))
    assert_one_line(refused, "6 pictures decide nothing", "8 or more", "--force")
    assert not target.exists()


def test_pictures_that_cannot_be_asked_do_not_count(
    cli: Cli, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight are read, and one is left after the model refused the others: nothing is saved of that either."""
    from trimkit import calibration

    really = calibration.calibrate

    def of_one(model: Any, processor: Any, pictures: dict[str, Any], *more: Any, **options: Any) -> Any:
        return really(model, processor, dict(list(pictures.items())[:1]), *more, **options)

    monkeypatch.setattr(calibration, "calibrate", of_one)
    folder, target = write_spots(tmp_path / "pictures", 8), tmp_path / "config.json"
    quick = ("--method", "random", "--per-image", "1", "-o", str(target))
    assert_one_line(calibrate(cli, checkpoint, folder, *quick), "1 pictures decide nothing")
    assert not target.exists()
    assert calibrate(cli, checkpoint, folder, *quick, "--force").code == 0
    assert target.exists()
