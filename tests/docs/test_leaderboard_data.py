"""The leaderboard's data: one entry a method and budget, rows of single methods, the filtered score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import leaderboard, leaderboard_row, records
from tests.docs.test_tables import PROVENANCE


def arm(method: str, budget: str, hits: str) -> dict[str, Any]:
    right = hits.count("1") / len(hits)
    return {
        "method": method,
        "budget": budget,
        "image_tokens_kept_mean": 576.0 if method == "none" else float(budget),
        "accuracy": right,
        "ci95": [max(0.0, right - 0.1), min(1.0, right + 0.1)],
        "accuracy_by_type": {"reading": right},
        "relative": {"value": right},
        "hits": hits,
    }


def record(*arms: dict[str, Any]) -> dict[str, Any]:
    run = {"n": 4, "n_by_type": {"reading": 4}, "seed": 3, "image_tokens_full": 576}
    arguments = {"seed": 3, "n": 4, "types": "all", "budget": "64,32", "method": "trim", "dtype": "auto", "workers": 2}
    return {
        "config": {"arguments": arguments},
        "provenance": PROVENANCE,
        "results": [{**run, "arms": [arm("none", "default", "1110"), *arms]}],
    }


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setattr(leaderboard, "RESULTS", tmp_path)
    (tmp_path / "rows").mkdir()
    return tmp_path


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def test_filtered_counts_what_the_full_model_has_right_and_a_smaller_picture_has_not(results: Path) -> None:
    write(results / "suite_ten_types.json", record(arm("trim", "64", "1100"), arm("trim", "32", "1000")))
    write(results / "rows" / "resize.json", record(arm("resize", "64", "1000")))
    entries = {(each["method"], each["budget"]): each for each in leaderboard.board()["entries"]}
    assert entries["trim", 64]["filtered"] == {"n": 2, "accuracy": 0.5}
    assert entries["resize", 64]["filtered"] == {"n": 2, "accuracy": 0.0}
    assert entries["trim", 32]["filtered"] is None
    assert entries["resize", 64]["source"] == "benchmarks/results/rows/resize.json"
    assert not any("hits" in each for each in entries.values())


def test_a_row_of_other_weights_says_so_and_is_not_filtered(results: Path) -> None:
    write(results / "suite_ten_types.json", record(arm("trim", "64", "1100")))
    row = record(arm("resize", "64", "1000"))
    row["results"][0]["arms"][0]["hits"] = "0110"
    write(results / "rows" / "resize.json", row)
    entries = {each["method"]: each for each in leaderboard.board()["entries"]}
    assert entries["resize"]["note"] == "other questions or weights than the rest"
    assert entries["trim"]["filtered"] is None


def test_what_choosing_costs_comes_from_the_bench_and_a_row_brings_its_own(results: Path) -> None:
    def bench(method: str, select: float) -> dict[str, Any]:
        stages = {"text": {"median": 0.1}, "select": {"median": select}, "shrink": {"median": 0.0}}
        return {"arms": [{"method": method, "stages_s": stages}]}

    write(results / "suite_ten_types.json", record(arm("trim", "64", "1100"), arm("random", "64", "1000")))
    write(results / "bench_rivals.json", {"provenance": PROVENANCE, "results": [bench("trim", 0.02)]})
    write(results / "rows" / "uniform.json", {**record(arm("uniform", "64", "1000")), "bench": bench("uniform", 0.01)})
    costs = {each["method"]: each["choosing_ms"] for each in leaderboard.board()["entries"]}
    assert costs == {"trim": 120.0, "random": None, "uniform": 110.0}


def test_the_literal_sign_and_other_variants_are_no_entries(results: Path) -> None:
    """``trim-released`` keeps the sign of another tower: in a row of its own, too."""
    both = [arm("trim-released", "64", "0000"), arm("trim-released sign=auto", "64", "1100")]
    more = [arm("trim", "64", "1100"), arm("trim sign=-1", "64", "0000"), {**arm("trim", "64", "0001"), "fallback": {}}]
    write(results / "suite_ten_types.json", record(*both, *more))
    write(results / "rows" / "trim-released.json", record(both[0]))
    entries = [(each["method"], each["accuracy"], each["note"]) for each in leaderboard.board()["entries"]]
    assert entries == [("trim", 0.5, ""), ("trim-released", 0.5, "with `sign=auto`")]
    assert "`trim-released` \\*" in leaderboard.page_table()


def test_a_row_asks_the_suites_own_questions(results: Path) -> None:
    write(results / "suite_ten_types.json", record())
    config = leaderboard_row.config_for("uniform")
    assert config["arguments"] == {
        "seed": 3,
        "n": 4,
        "types": "all",
        "budget": "64,32",
        "dtype": "auto",
        "method": "uniform",
        "ours": "uniform",
    }
    assert leaderboard_row.config_for("uniform", 2)["arguments"]["n"] == 2
