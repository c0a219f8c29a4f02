"""The real ``lmms-eval`` command with the plugin, on the local task files. Needs lmms-eval: ``make test-lmms``."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoint import save_small
from trimkit.config import Config, Reduction, save_config
from trimkit.errors import ConfigError
from trimkit.loading import load_model

if importlib.util.find_spec("lmms_eval") is None:
    pytest.skip("lmms-eval is not installed: run `make test-lmms`", allow_module_level=True)

from tests.lmms import data, run
from tests.lmms.metrics import METRICS

# What lmms-eval imports warns in ways of its own.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
POPE = ("pope_accuracy", "pope_precision", "pope_recall", "pope_f1_score", "pope_yes_ratio")
MME = ("mme_perception_score", "mme_cognition_score")
TASKS = ["pope", "mme", "mmbench", "seedbench", "scienceqa"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_small(tmp_path_factory.mktemp("small")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("data")
    data.write(where)
    return where


def journal_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def test_batch_one_and_eight(small: str, folder: Path) -> None:
    """Random weights: answers are words of no meaning, so that any difference shows."""
    args = f"pretrained={small},method=random,budget=4"
    eight, one = (run.run(folder, list(data.TASKS), size, args) for size in (8, 1))
    assert one["answers"] == eight["answers"]
    assert one["metrics"] == eight["metrics"] == run.own_metrics(one["answers"])
    assert len({answer for answers in one["answers"].values() for answer in answers}) > 5
    assert "4.0 of 16.0 image tokens a row, 0 of 12 rows skipped" in one["log"]


def test_a_config_is_what_it_says(small: str, tmp_path: Path) -> None:
    from trimkit.eval.lmms.plugin import Trimkit

    path = save_config(
        tmp_path / "config.json", Config(reduce=Reduction.model_validate({"method": "random", "budget": 5}))
    )
    options = [Trimkit(small, device="cpu", config=str(path), **more).about for more in ({}, {"budget": 6})]
    assert [(each["method"], each["budget"]) for each in options] == [("random", 5), ("random", 6)]
    plain = Trimkit(small, device="cpu", method="random", budget=5)
    assert plain.arm == Trimkit(small, device="cpu", config=str(path)).arm


def test_a_fallback_is_counted_and_told_apart(small: str, folder: Path, tmp_path: Path) -> None:
    from trimkit.eval.lmms.plugin import Trimkit

    path = save_config(
        tmp_path / "config.json",
        Config(reduce=Reduction.model_validate({"method": "random", "budget": 4, "fallback": {"threshold": 2.0}})),
    )
    args = f"pretrained={small},config={path}"
    found = run.run(folder, list(data.TASKS), 8, args)
    full = run.run(folder, list(data.TASKS), 8, f"pretrained={small},method=none")
    assert found["answers"] == full["answers"]
    assert "20.0 of 16.0 image tokens a row, 0 of 12 rows skipped" in found["log"]
    arms = {
        Trimkit(small, device="cpu", method="random", budget=4, fallback=each).arm for each in (None, "none", "full")
    }
    assert len(arms) == 2


def test_answers_of_other_weights_are_not_taken(tmp_path: Path) -> None:
    """The checkpoint is trained on in the same directory."""
    from trimkit.eval.lmms.plugin import Trimkit

    where, journal = str(save_small(tmp_path / "model")), str(tmp_path / "run.jsonl")
    for _ in range(2):
        opened = Trimkit(where, method="random", budget=4, device="cpu", journal=journal)._journal
        assert opened is not None
        opened.close()
    model, _ = load_model(where)
    with torch.no_grad():
        model.lm_head.weight.add_(0.01)
    model.save_pretrained(where)
    with pytest.raises(ConfigError, match="weights"):
        Trimkit(where, method="random", budget=4, device="cpu", journal=journal)


def test_killed_three_times(small: str, folder: Path, tmp_path: Path) -> None:
    args = f"pretrained={small},method=random,budget=4"
    whole = run.run(folder, TASKS, 2, args)
    journal = tmp_path / "run.jsonl"
    counts = [0]
    for _ in range(3):
        line = run.command(tmp_path, TASKS, 2, f"{args},journal={journal}")
        running = subprocess.Popen(
            line, cwd=folder, env=run.environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while running.poll() is None and (not journal.is_file() or journal.read_bytes().count(b"\n") <= counts[-1] + 6):
            time.sleep(0.002)
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        counts.append(journal.read_bytes().count(b"\n") - 1)
    total = sum(len(answers) for answers in whole["answers"].values())
    assert 0 < counts[1] < counts[2] < counts[3] < total
    resumed = run.run(folder, TASKS, 2, f"{args},journal={journal}")
    assert {name: resumed[name] for name in ("answers", "metrics")} == {
        name: whole[name] for name in ("answers", "metrics")
    }
    rows = [(row["task"], row["id"]) for row in journal_rows(journal)]
    assert len(rows) == len(set(rows)) == total


def test_damaged_and_over_long_rows_are_named(small: str, folder: Path, tmp_path: Path) -> None:
    journal = tmp_path / "run.jsonl"
    found = run.run(folder, ["damaged"], 4, f"pretrained={small},method=random,budget=4,journal={journal}")
    reasons = {row["id"]: row["row"]["skipped"] for row in journal_rows(journal)}
    assert [name for name, reason in reasons.items() if reason] == ["1", "3"]
    assert "after reduction, and the model's context holds 512" in reasons["3"]
    assert found["answers"]["damaged"][1] == found["answers"]["damaged"][3] == ""
    assert (
        found["answers"]["damaged"][0]
        == run.run(folder, ["pope"], 4, f"pretrained={small},method=random,budget=4")["answers"]["pope"][0]
    )
    assert "row 1 of local_damaged is skipped: " in found["log"]
    assert "2 of 5 rows skipped" in found["log"]


def test_paper_table(small: str, folder: Path, tmp_path: Path) -> None:
    line = [
        sys.executable,
        "-m",
        "trimkit",
        "eval",
        "paper-table",
        "--model",
        small,
        "--method",
        "random",
        "--budget",
        "4",
    ]
    line += [
        "--tasks",
        "local_pope:pope_yes_ratio,local_damaged:pope_yes_ratio,mmvet,local_none",
        "--limit",
        "4",
        "--json",
    ]
    line += ["--include-path", str(run.TASK_FILES), "--batch-size", "4", "--resume", str(tmp_path / "table.jsonl")]
    outcomes = [call(line, folder, tmp_path) for _ in range(2)]
    assert outcomes[0] == outcomes[1]
    full, cut = outcomes[0]["arms"]
    assert (full["method"], cut["method"]) == ("none", "random")
    assert (full["image_tokens_kept"], cut["image_tokens_kept"]) == (
        16.0,
        4.0,
    )  # a row that was asked; two have no picture
    assert cut["relative"] == {"local_pope": 1.0, "local_damaged": 1.0}
    assert [(row["task"], row["id"]) for row in cut["skipped"]] == [("local_damaged", "1"), ("local_damaged", "3")]
    assert [row["task"] for row in outcomes[0]["not_run"]] == ["mmvet", "local_none"]


def call(line: Sequence[str], folder: Path, work: Path) -> dict[str, Any]:
    environment = {name: value for name, value in run.environment(work).items() if not name.endswith("_API_KEY")}
    done = subprocess.run(line, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


ODD = ["yes", "No", "Yes.", "no way", "A", "B.", "(C)", "two", "2", "the red", "green!", "Blue,", "above", ""]


@pytest.mark.parametrize("task", METRICS)
def test_metrics_equal_lmms_evals_own(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On answers right, wrong, and oddly written: the functions that lmms-eval's tasks use, against the definitions."""
    monkeypatch.chdir(tmp_path)  # MMBench's writes a file
    rows = data.TASKS[task]()
    generator = random.Random(task)
    seen = set()
    for _ in range(20):
        answers = [said(generator, task, row) for row in rows]
        own = METRICS[task](rows, answers)
        assert own == theirs(task, rows, answers)
        seen |= set(own.values())
    assert len(seen) >= 3


def said(generator: random.Random, task: str, row: dict[str, Any]) -> str:
    """An answer, right in about half of the rows."""
    truth = row.get("answer", row.get("answers"))
    if isinstance(truth, int):
        truth = "ABCD"[truth]
    if isinstance(truth, list):
        first = generator.choice(truth)
        truth = first["answer"] if isinstance(first, dict) else first
    wrong = [row[letter] for letter in "ABCD"] + list("ABCD") if task == "mmbench" else ODD
    return str(truth) if generator.random() < (0.9 if task == "mmbench" else 0.5) else generator.choice(wrong)


def theirs(task: str, rows: list[dict[str, Any]], answers: list[str]) -> dict[str, float]:
    from lmms_eval.api.metrics import exact_match_hf_evaluate, mean

    from tests.lmms.tasks import utils

    rows = copy.deepcopy(rows)  # some of the functions write into them
    if task == "gqa":
        plain = {"ignore_case": True, "ignore_punctuation": True}
        pairs = zip(rows, answers, strict=True)
        scored = [exact_match_hf_evaluate([answer], [row["answer"]], **plain)["exact_match"] for row, answer in pairs]
        return {"exact_match": mean(scored)}
    process, totals = {
        "pope": (
            utils.pope_process_results,
            {name: getattr(utils, name.replace("pope_", "pope_aggregate_")) for name in POPE},
        ),
        "mme": (utils.mme_process_results, dict.fromkeys(MME, utils.mme_aggregate_results)),
        "vqav2": (utils.vqav2_process_results_val, {"exact_match": mean}),
        "textvqa": (utils.textvqa_process_results, {"exact_match": mean}),
        "vizwiz": (utils.vizwiz_vqa_process_results, {"exact_match": mean}),
        "mmbench": (
            utils.mmbench_process_results,
            {"gpt_eval_score": lambda found: utils.mmbench_aggregate_dev_results_static(found, None)},
        ),
        "seedbench": (
            utils.seed_process_result,
            dict.fromkeys(("seed_image", "seed_all"), utils.seed_aggregation_result),
        ),
        "scienceqa": (utils.sqa_process_results, {"exact_match": mean}),
    }[task]
    outcomes = [process(row, [answer]) for row, answer in zip(rows, answers, strict=True)]
    return {name: total([each[name] for each in outcomes if name in each]) for name, total in totals.items()}
