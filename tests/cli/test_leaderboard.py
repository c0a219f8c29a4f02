"""``trimkit leaderboard``: the packaged results, sorted and filtered, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from trimkit.cli import run
from trimkit.eval import leaderboard


def entry(method: str, budget: int, accuracy: float, **more: Any) -> dict[str, Any]:
    plain = {
        "method": method,
        "budget": budget,
        "image_tokens": float(budget),
        "accuracy": accuracy,
        "relative": accuracy,
        "filtered": None,
        "by_type": {"reading": 1 - accuracy},
        "choosing_ms": None,
        "vllm": True,
        "reads_question": False,
        "note": "",
    }
    return {**plain, **more}


ENTRIES = [
    entry("a", 64, 0.9, choosing_ms=5.0),
    entry("b", 64, 0.8, vllm=False, reads_question=True, choosing_ms=1.0),
    entry("b", 32, 0.7, filtered={"n": 4, "accuracy": 0.5}, reads_question=True),
]


def names(entries: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(each["method"], each["budget"]) for each in entries]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("accuracy", [("a", 64), ("b", 64), ("b", 32)]),
        ("reading", [("b", 32), ("b", 64), ("a", 64)]),
        ("choosing", [("b", 64), ("a", 64), ("b", 32)]),
        ("filtered", [("b", 32), ("a", 64), ("b", 64)]),
        ("tokens", [("b", 32), ("a", 64), ("b", 64)]),
        ("method", [("a", 64), ("b", 64), ("b", 32)]),
    ],
)
def test_best_first_and_unknown_values_last(key: str, expected: list[tuple[str, int]]) -> None:
    assert names(leaderboard.rank(ENTRIES, key, ["reading"])) == expected


def test_filters() -> None:
    assert names(leaderboard.pick(ENTRIES, methods=["b"], budget=32)) == [("b", 32)]
    assert names(leaderboard.pick(ENTRIES, vllm=True)) == [("a", 64), ("b", 32)]
    assert names(leaderboard.pick(ENTRIES, reads_question=False)) == [("a", 64)]


def test_the_packaged_board_has_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["leaderboard", "--json", "--top", "3", "--sort", "reading"]) == 0
    board = json.loads(capsys.readouterr().out)
    assert len(board["entries"]) == 3
    kinds = leaderboard.question_types(board)
    values = [each["by_type"]["reading"] for each in board["entries"]]
    assert values == sorted(values, reverse=True)
    for each in [board["full"], *board["entries"]]:
        assert list(each["by_type"]) == kinds
        assert 0 <= each["ci95"][0] <= each["accuracy"] <= each["ci95"][1] <= 1


def test_the_table_has_a_line_an_entry(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["leaderboard", "--method", "trim,random", "--budget", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["none", "trim", "random"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sort", "beauty"], "cannot sort by 'beauty'"),
        (["--budget", "7"], "no results at budget 7: there are 8, 16, 32"),
        (["--method", "trimm"], "no result of method 'trimm' yet"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["leaderboard", *arguments]) == 2
    seen = capsys.readouterr()
    assert said in seen.err
    assert seen.err.count("\n") == 1
    assert not seen.out


def test_it_loads_no_torch() -> None:
    code = (
        "import sys; from trimkit.cli import run; run(['leaderboard', '--top', '1']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
