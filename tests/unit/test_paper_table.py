"""The table's logic on arms that are made up: relative accuracy, what is left out, and going on after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trimkit.errors import ConfigError, ModelError
from trimkit.eval.journal import Journal
from trimkit.eval.paper_table import COLUMNS, columns_of, judged_without_key, run

LOCAL = columns_of(["one", "two:second"])


class FakeArm:
    """Scores by task; ``broken`` tasks fail."""

    def __init__(self, key: str, scores: dict[str, float], broken: str = "") -> None:
        self.key, self.about = key, {"method": key, "budget": "iqr", "options": {}}
        self._scores, self._broken = scores, broken
        self.asked: list[str] = []

    def score(self, task: str) -> dict[str, Any]:
        self.asked.append(task)
        if task == self._broken:
            raise ModelError("no data\nhere")
        skipped = [{"task": task, "id": "3", "reason": "it is damaged"}]
        metrics = {"first": self._scores[task], "second": self._scores[task] * 2}
        return {"metrics": metrics, "rows": 10, "tokens_full": 9 * 576, "tokens_kept": 9 * 121, "skipped": skipped}


def test_relative_to_the_first_arm() -> None:
    said: list[str] = []
    arms = [FakeArm("none", {"one": 0.8, "two": 0.5}), FakeArm("trim", {"one": 0.6, "two": 0.55})]
    result = run(arms, LOCAL, say=said.append)
    full, trim = result["arms"]
    assert full["scores"] == {"one": 0.8, "two": 1.0}
    assert full["relative"] == {"one": 1.0, "two": 1.0}
    assert trim["relative"] == pytest.approx({"one": 0.75, "two": 1.1})
    assert trim["relative_mean"] == pytest.approx((0.75 + 1.1) / 2)
    assert (trim["rows"], trim["image_tokens_full"], trim["image_tokens_kept"]) == (20, 576, 121)
    assert [row["task"] for row in trim["skipped"]] == ["one", "two"]
    assert result["not_run"] == []
    assert said[0] == "none, one: 0.80"


def test_a_task_that_fails_is_named_and_in_no_mean() -> None:
    arms = [FakeArm("none", {"one": 0.8, "two": 0.5}), FakeArm("trim", {"one": 0.4, "two": 0.5}, broken="two")]
    result = run(arms, LOCAL)
    assert result["not_run"] == [{"task": "two", "reason": "no data here"}]
    assert result["columns"] == [{"title": "one", "task": "one"}]
    assert [arm["relative_mean"] for arm in result["arms"]] == [1.0, 0.5]
    nothing = run([FakeArm("none", {}, broken="one")], LOCAL[:1])["arms"][0]
    assert (nothing["relative_mean"], nothing["image_tokens_kept"], nothing["rows"]) == (None, None, 0)


def test_a_task_whose_rows_are_all_skipped_is_left_out() -> None:
    """Its metrics, of empty answers, are no scores; nor are those of a task without rows."""

    class Skips(FakeArm):
        def score(self, task: str) -> dict[str, Any]:
            outcome = super().score(task)
            return {**outcome, "rows": 1} if task == "one" else {**outcome, "rows": 0, "skipped": []}

    result = run([Skips("none", {"one": 0.8, "two": 0.5})], LOCAL)
    assert result["columns"] == []
    assert [each["reason"] for each in result["not_run"]] == [
        "none of its 1 rows could be run: it is damaged",
        "none of its 0 rows could be run",
    ]


def test_a_full_model_that_scores_nothing_has_no_share() -> None:
    arms = [FakeArm("none", {"one": 0.0, "two": 0.5}), FakeArm("trim", {"one": 0.4, "two": 0.5})]
    assert run(arms, LOCAL)["arms"][1]["relative"] == {"two": 1.0}


def test_a_stopped_table_goes_on(tmp_path: Path) -> None:
    scores = {"one": 0.8, "two": 0.5}
    whole = run([FakeArm("none", scores), FakeArm("trim", scores)], LOCAL)
    path = tmp_path / "table.jsonl"
    with Journal(path, {}) as journal:
        run([FakeArm("none", scores), FakeArm("trim", scores)], LOCAL[:1], journal=journal)
    again = [FakeArm("none", scores), FakeArm("trim", scores)]
    with Journal(path, {}) as journal:
        assert run(again, LOCAL, journal=journal) == whole
    assert [arm.asked for arm in again] == [["two"], ["two"]]
    with Journal(path, {}) as journal:  # with fewer rows, the scores are others
        run(again, LOCAL, journal=journal, limit=5)
    assert [arm.asked for arm in again] == [["two", "one", "two"]] * 2


def test_what_a_gpt_grades_needs_a_key() -> None:
    tasks = {"llava_in_the_wild", "mmvet"}
    reasons = judged_without_key(COLUMNS, {})
    assert set(reasons) == tasks
    assert set(reasons.values()) == {"a GPT grades it: set OPENAI_API_KEY to run it"}
    assert judged_without_key(COLUMNS, {"OPENAI_API_KEY": "x"}) == {}
    assert set(judged_without_key(COLUMNS, {"API_TYPE": "azure", "OPENAI_API_KEY": "x"})) == tasks
    said: list[str] = []
    arm = FakeArm("none", dict.fromkeys(tasks, 1.0))
    result = run([arm], columns_of(["mmvet"]), left_out=judged_without_key(columns_of(["mmvet"]), {}), say=said.append)
    assert (arm.asked, said) == ([], ["mmvet is skipped: a GPT grades it: set OPENAI_API_KEY to run it"])
    assert result["not_run"] == [{"task": "mmvet", "reason": "a GPT grades it: set OPENAI_API_KEY to run it"}]


def test_columns() -> None:
    assert len(columns_of(None)) == 12
    assert columns_of([" pope "])[0].metric == "pope_f1_score"
    assert (columns_of(["pope:pope_accuracy"])[0].metric, columns_of(["other"])[0].metric) == ("pope_accuracy", None)
    with pytest.raises(ConfigError, match="'pope' twice"):
        columns_of(["pope", "pope:pope_accuracy"])
    with pytest.raises(ConfigError, match="nothing"):
        columns_of(["pope", ""])


def test_an_unknown_metric_is_named() -> None:
    result = run([FakeArm("none", {"one": 1.0})], columns_of(["one:third"]))
    assert result["not_run"] == [{"task": "one", "reason": "task one has no metric 'third': it has first, second"}]
