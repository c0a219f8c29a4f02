"""What the commands print and write when all is well."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import trimkit
from tests.cli.conftest import Cli
from trimkit.demo import sample_images
from trimkit.eval import dialogues, scenes
from trimkit.eval.tally import wilson
from trimkit.methods import method_classes

KEYS = {"answer", "image_tokens_full", "image_tokens_kept", "seconds"}
SHORT = ("--max-new-tokens", "2")


def test_ask_without_arguments_uses_a_sample(cli: Cli) -> None:
    outcome = cli("ask", "--json", *SHORT)
    assert (outcome.code, outcome.err) == (0, "")
    printed = json.loads(outcome.out)
    assert set(printed) == KEYS
    assert printed["image_tokens_full"] == 576
    assert 0 < printed["image_tokens_kept"] < 576 / 2
    assert printed["seconds"] > 0


def test_ask_compare(cli: Cli, picture: str) -> None:
    outcome = cli("ask", picture, "Is there a dog?", "--compare", "--json", "--budget", "121", *SHORT)
    printed = json.loads(outcome.out)
    assert set(printed) == KEYS | {"full"}
    assert set(printed["full"]) == KEYS
    assert printed["image_tokens_kept"] == 121
    assert printed["full"]["image_tokens_kept"] == printed["full"]["image_tokens_full"] == 576


@pytest.mark.parametrize(("budget", "kept"), [("1.0", 576), ("0.25", 144), ("7", 7), ("9999", 576)])
def test_budgets_count_what_the_model_sees(budget: str, kept: int, cli: Cli, picture: str) -> None:
    outcome = cli("ask", picture, "Is there a dog?", "--json", "--budget", budget, *SHORT)
    assert json.loads(outcome.out)["image_tokens_kept"] == kept


def test_samples_go_by_name(cli: Cli) -> None:
    name, sample = next(iter(sample_images().items()))
    for given in (name, f"sample:{name}", str(sample.path)):
        outcome = cli("ask", given, sample.question, "--method", "none", *SHORT)
        assert outcome.code == 0
        assert " ".join(sample.question.split()) in outcome.out
        assert "576 of 576" in outcome.out


def test_samples_are_what_they_say() -> None:
    for sample in sample_images().values():
        with Image.open(sample.path) as image:
            assert image.size == (336, 336)
        assert {entry.type for entry in sample.questions} >= {"existence", "attribute", "counting"}
        assert (sample.question, sample.answer) in {(entry.question, entry.answer) for entry in sample.questions}


def test_options_reach_the_method(cli: Cli, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("trimkit.cli._common.load", lambda *_: (None, None))
    monkeypatch.setattr("trimkit.ask.ask", lambda *_, method, **__: seen.append(method) or _answer())
    code = cli("ask", picture, "What?", "--set", "aggregate=none", "--set", "temperature=2", "--budget", "0.5").code
    assert code == 0
    assert (seen[0].aggregate, seen[0].temperature, str(seen[0].budget)) == ("none", 2, "0.5")


def _answer() -> object:
    from trimkit.ask import Answer

    return Answer("yes\x1b[2J\nand more", 576, 121, 0.5)


def test_replies_cannot_drive_the_terminal(cli: Cli, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimkit.cli._common.load", lambda *_: (None, None))
    monkeypatch.setattr("trimkit.ask.ask", lambda *_, **__: _answer())
    out = cli("ask", picture, "What?").out
    assert "\x1b" not in out
    assert "and more   [121 of 576 image tokens, 0.500 s]" in out


def test_show_writes_the_picture(cli: Cli, picture: str, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    outcome = cli("show", picture, "Is there a dog?", "-o", str(target), "--json", *SHORT)
    printed = json.loads(outcome.out)
    assert set(printed) == KEYS | {"full", "path"}
    assert printed["path"] == str(target)
    with Image.open(target) as drawn:
        assert drawn.format == "PNG"
        assert drawn.width > drawn.height
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [], "no temporary file is left"


def test_show_prints_where_the_picture_is(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "out.webp"
    outcome = cli("show", "-o", str(target), *SHORT)
    assert (outcome.code, outcome.err) == (0, "")
    assert str(target) in outcome.out
    assert outcome.out.count(" of 576 image tokens") == 2


def test_methods(cli: Cli) -> None:
    listed = json.loads(cli("methods", "--json").out)
    assert [entry["name"] for entry in listed] == [name for name, _ in method_classes()]
    trim = next(entry for entry in listed if entry["name"] == "trim")
    assert trim["uses_text"] is True
    assert trim["options"]["budget"] == "iqr"
    assert trim["paper"].startswith("https://")
    assert trim["published"][0]["kept"]["192"] == 97.1
    assert trim["published"][0]["date"] == "2025-08"
    by_name = {entry["name"]: entry for entry in listed}
    assert by_name["focus"]["published"] is None
    assert all(entry["deterministic"] is True for entry in listed)
    works = {name: entry["vllm"] for name, entry in by_name.items()}
    assert {"trim", "focus", "divprune", "cdpruner", "dart-tower"} <= {name for name in works if works[name]}
    assert not {"fastv", "dart", "visionzip", "prumerge", "scope", "cls-attention"} & {
        name for name in works if works[name]
    }
    assert by_name["visionzip"]["signals"] == ["cls_attention", "cls_state", "keys_mean"]
    assert "trim-released" in cli("methods").out


def test_models(cli: Cli) -> None:
    listed = {entry["name"]: entry for entry in json.loads(cli("models", "--json").out)}
    assert {"llava", "*"} <= set(listed)
    assert listed["llava"]["relevance"] == "native"
    assert listed["qwen3_vl"]["relevance"] == "external"
    keys = {"name", "family", "relevance", "images", "video", "batch", "training", "status"}
    assert all(set(entry) == keys for entry in listed.values())
    assert "llava" in cli("models").out


def test_help_and_version(cli: Cli) -> None:
    assert cli("--version").out == f"trimkit {trimkit.__version__}\n"
    for words in ((), ("--help",), ("ask", "--help"), ("show", "--help"), ("methods", "--help"), ("models", "--help")):
        outcome = cli(*words)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith("Usage: trimkit")
    for words in (("eval", "scenes"), ("bench",)):
        assert "--json" in cli(*words, "--help").out


def test_eval_scenes(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    arguments = ("eval", "scenes", "--seed", "5", "--n", "6", "--method", "random", "--budget", "50", "--json")
    outcome = cli(*arguments, "-o", str(target))
    assert (outcome.code, outcome.err) == (0, "")
    result = json.loads(outcome.out)
    assert json.loads(target.read_text()) == result
    assert (result["n"], result["seed"], result["method"], result["budget"]) == (6, 5, "random", 50)
    assert (result["image_tokens_full"], result["image_tokens_kept_mean"]) == (576, 50)
    assert set(result["accuracy_by_type"]) == set(result["ci95_by_type"]) == set(result["n_by_type"])
    assert len(result["n_by_type"]) == 6
    low, high = result["ci95"]
    assert 0 <= low <= result["accuracy"] <= high <= 1
    assert result["versions"]["trimkit"] == trimkit.__version__


def test_eval_scenes_grades_each_reply_against_its_own_question(monkeypatch: pytest.MonkeyPatch) -> None:
    from trimkit.demo.items import sample_item
    from trimkit.loading import load_model

    answers = [sample_item(5, index)[1].answer for index in range(7)]
    answers[2] = "nonsense"
    left = iter(answers)
    really = scenes.answer
    graded = lambda *given, **more: [replace(reply, text=next(left)) for reply in really(*given, **more)]  # noqa: E731
    monkeypatch.setattr(scenes, "answer", graded)
    done: list[int] = []
    result = scenes.evaluate(*load_model(), seed=5, n=7, method="none", batch_size=4, advance=done.append)
    assert result["accuracy"] == pytest.approx(6 / 7)
    assert result["accuracy_by_type"] == {kind: float(kind != "counting") for kind in result["accuracy_by_type"]}
    assert result["n_by_type"]["existence"] == 2
    assert done == [4, 3]
    assert result["image_tokens_kept_mean"] == result["image_tokens_full"] == 576


def test_eval_dialogues(cli: Cli) -> None:
    arguments = ("--seed", "5", "--n", "3", "--method", "random", "--budget", "50", "--turns", "refresh,first")
    outcome = cli("eval", "dialogues", *arguments, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    results = json.loads(outcome.out)
    assert [result["turns"] for result in results] == ["refresh", "first"]
    for result in results:
        assert (result["dialogues"], result["n"]) == (3, 9)
        assert result["image_tokens_kept_by_turn"] == [50, 50, 50]
        assert len(result["accuracy_by_turn"]) == len(result["ci95_by_turn"]) == 3
        assert sum(result["n_by_type"].values()) == 9
        assert result["accuracy"] == pytest.approx(sum(result["accuracy_by_turn"]) / 3)


def test_dialogues_go_on_from_the_models_own_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    from trimkit.demo.items import sample_dialogue
    from trimkit.loading import load_model

    seen: list[str] = []
    _, processor = loaded = load_model()

    def decode(_processor: Any, inputs: Any, _out: Any) -> list[str]:
        seen.extend(processor.batch_decode(inputs["input_ids"][:, -120:], skip_special_tokens=True))
        return [f"reply {len(seen)}" for _ in inputs["input_ids"]]

    monkeypatch.setattr(dialogues, "decode", decode)
    result = dialogues.evaluate(*loaded, seed=5, n=1, method="none", batch_size=2)
    asked = [question.text for question in sample_dialogue(5, 0)[1]]
    assert seen[2].endswith(
        f"{asked[0]} ASSISTANT: reply 1 USER: {asked[1]} ASSISTANT: reply 2 USER: {asked[2]} ASSISTANT:"
    )
    assert result["accuracy"] == 0


def test_several_methods_make_a_list(cli: Cli) -> None:
    results = json.loads(cli("eval", "scenes", "--n", "1", "--method", "none,random", "--json").out)
    assert [result["method"] for result in results] == ["none", "random"]


def test_wilson_intervals() -> None:
    assert wilson(50, 100) == pytest.approx([0.40383, 0.59617], abs=1e-5)
    assert wilson(0, 10) == pytest.approx([0.0, 0.27753], abs=1e-5)
    assert wilson(10, 10) == pytest.approx([0.72247, 1.0], abs=1e-5)


def test_the_installed_entry_point_is_silent_but_for_its_answer(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trimkit", "ask", "--json", *SHORT]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert set(json.loads(done.stdout)) == KEYS
    assert done.stderr == ""
