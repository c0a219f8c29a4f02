"""Tables and plot of the scenes suite, from a record made up here."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks import records, suite_plot, suite_tables, tables
from benchmarks.cells import points
from tests.docs.test_tables import PROVENANCE

KINDS = {"existence": 10, "multiple_choice": 10}
ACCURACY = {"focus": 0.9, "trim": 0.85, "random": 0.5}


def arm(method: str, budget: str, accuracy: float, kept: float) -> dict[str, Any]:
    return {
        "method": method,
        "budget": budget,
        "label": method if budget == "default" else f"{method}@{budget}",
        "options": {},
        "image_tokens_kept_mean": kept,
        "accuracy": accuracy,
        "ci95": [accuracy - 0.02, accuracy + 0.02],
        "accuracy_by_type": dict.fromkeys(KINDS, accuracy),
        "relative": {"value": accuracy / 0.92, "ci95": [0.9, 1.0]},
    }


def difference(value: float, significant: bool) -> dict[str, Any]:
    p = 0.0005 if significant else 0.5
    return {"value": value, "ci95": [value - 0.01, value + 0.01], "significant": significant, "p": p, "p_holm": 4 * p}


def a_run(**extra: Any) -> dict[str, Any]:
    arms = [arm("none", "default", 0.92, 576.0)]
    for name, accuracy in ACCURACY.items():
        arms += [arm(name, "64", accuracy + 0.01, 64.0), arm(name, "32", accuracy, 32.0)]
        arms.append(arm(name, "default", 0.8, 97.9))
    compared = []
    for budget in ("64", "32"):
        for other, significant in (("trim", False), ("random", True)):
            entry = {"budget": budget, "ours": f"focus@{budget}", "other": f"{other}@{budget}"}
            entry |= difference(ACCURACY["focus"] - ACCURACY[other], significant)
            compared.append(entry | ({"by_type": dict.fromkeys(KINDS, difference(0.4, True))} if significant else {}))
    return {
        "n": 20,
        "seed": 3,
        "shift": "none",
        "ours": "focus",
        "image_tokens_full": 576,
        "n_by_type": KINDS,
        "arms": arms,
        "comparisons": compared,
        **extra,
    }


def test_a_row_a_method_best_first() -> None:
    rows = suite_tables.curves({"results": [a_run()]}).splitlines()
    assert rows[0] == "| method | 64 tokens | 32 tokens | own default |"
    assert rows[2].endswith("| 92.0 % at 576 |")
    assert [row.split("|")[1].strip() for row in rows[3:6]] == ["**`focus`**", "`trim`", "`random`"]
    assert rows[4] == "| `trim` | 86.0 % (93.5) | 85.0 % (92.4) | 80.0 % at 98 |"
    assert "20 questions, seed 3" in rows[-1]


def test_pairs_are_bold_where_they_differ() -> None:
    text = suite_tables.pairs({"results": [a_run()]})
    assert "| `focus` minus | 64 tokens | 32 tokens |" in text
    assert "| `random` | **+40.0** (+39.0 to +41.0) | **+40.0** (+39.0 to +41.0) |" in text
    assert "| `trim` | +5.0 (+4.0 to +6.0) |" in text
    assert "| `random`, multiple choice | **+40.0**" in text
    assert points(difference(-0.012, True)) == "**-1.2** (-2.2 to -0.2)"
    assert (
        "clear by their own interval: 0 of 4 below 0, 2 above; with Holm's correction for their number 0 and 2. By "
        "type of question: 0 of 4 below 0, 4 above; with Holm's correction for their number 0 and 4." in text
    )


def test_types_on_which_another_method_is_ahead_are_named() -> None:
    run = with_both_signs()
    for each in run["comparisons"]:
        each["by_type"] = {"existence": difference(0.2, True), "multiple_choice": difference(-0.3, True)}
    text = suite_tables.pairs({"results": [run]})
    assert "By type of question: 5 of 10 below 0, 5 above; with Holm's correction for their number 5 and 5: " in text
    assert "multiple choice at 64, `trim` (**-30.0** (-31.0 to -29.0)); " in text
    assert "`trim-released` (" not in text


def with_both_signs() -> dict[str, Any]:
    run = a_run(not_learnt=["multiple_choice"])
    for name, accuracy in (("trim-released sign=auto", 0.8), ("trim-released", 0.3)):
        run["arms"].append(arm(name, "32", accuracy, 33.0))
        run["comparisons"].append(
            {"budget": "32", "ours": "focus@32", "other": f"{name}@32", "by_type": {}, **difference(0.1, True)}
        )
    return run


def test_the_literal_trim_released_is_a_footnote() -> None:
    """On a tower of the other sign it says nothing about TRIM."""
    record = {"results": [with_both_signs()]}
    for text in (suite_tables.curves(record), suite_tables.pairs(record)):
        assert "| `trim-released sign=auto` |" in text
        assert "| `trim-released` |" not in text
    assert "sign of OpenAI's CLIP, and this tower's is the other one: 30.0 % at 32." in suite_tables.curves(record)
    assert ">trim-released<" not in suite_plot.svg(with_both_signs())
    assert "| `trim-released` |" in suite_tables.curves(
        {"results": [a_run(arms=with_both_signs()["arms"][:1] + with_both_signs()["arms"][-1:])]}
    )


def test_types_that_are_not_learnt_are_named() -> None:
    for draw in (suite_tables.curves, suite_tables.by_type, suite_tables.pairs):
        assert "Not learned, below 85 % with all tokens: multiple choice." in draw({"results": [with_both_signs()]})
        assert "Not learned" not in draw({"results": [a_run()]})


def test_the_filtered_score_by_budget() -> None:
    scored = [
        {"label": "focus@32", "accuracy": 0.9, "ci95": [0.8, 0.95], "accuracy_by_type": {}},
        {"label": "resize@32", "accuracy": 0.0, "ci95": [0.0, 0.1], "accuracy_by_type": {}},
    ]
    none = [{**each, "label": each["label"].replace("32", "64"), "accuracy": None, "ci95": None} for each in scored]
    left = [
        {"budget": "64", "n": 0, "n_by_type": {}, "arms": none},
        {"budget": "32", "n": 7, "n_by_type": {}, "arms": scored},
    ]
    rows = suite_tables.filtered({"results": [a_run(filtered=left)]}).splitlines()
    assert rows[0] == "| method | 64 tokens | 32 tokens |"
    assert rows[2:5] == [
        "| questions left | 0 | 7 |",
        "| `focus` |  | 90.0 % (80.0 to 95.0) |",
        "| `resize` |  | 0.0 % (0.0 to 10.0) |",
    ]


def test_padding_that_can_be_chosen_beside_padding_that_cannot() -> None:
    runs = []
    for how, right in (("keep", 10), ("skip", 18)):
        arms = [arm("none", "default", 0.9, 576.0), arm("random", "32", right / 20, 32.0)]
        for each in arms:
            each["hits"] = ("1" * right).ljust(20, "0")
        runs.append(a_run(padding=how, arms=arms))
    text = suite_tables.padding({"results": runs})
    assert "| method@budget | can be chosen | never chosen | difference |" in text
    assert "| `random@32` | 50.0 % | 90.0 % | **+40.0** (" in text
    assert "| `none` | 90.0 % | 90.0 % |  |" in text


def test_types_shifts_and_effects() -> None:
    record = {"results": [a_run(shift="blur"), a_run(shift="noise")]}
    assert "| `trim@32` | 32 | 85.0 % (83.0 to 87.0) | 85.0 % | 85.0 % |" in suite_tables.by_type(record)
    shifted = suite_tables.shifts(record)
    assert "| blur | 64 tokens | 32 tokens | existence, 32 | multiple choice, 32 |" in shifted
    assert "| noise |" in shifted
    vague = suite_tables.shifts({"results": [a_run(query="Describe the picture.")]})
    assert "| “Describe the picture.” | 64 tokens |" in vague
    effect = {"method": "trim", "option": "sign", "reference": 1, "value": -1}
    effect |= {"alone": difference(-0.5, True), "on_average": difference(-0.4, True)}
    text = suite_tables.effects({"results": [a_run(effects=[effect])]})
    assert "| `trim`: `sign` | `1` to `-1` | **-50.0** (-51.0 to -49.0) | **-40.0** (-41.0 to -39.0) |" in text
    assert "`focus`" in suite_tables.grid({"results": [a_run()]})


def test_the_plot_is_a_picture_of_every_method() -> None:
    drawn = suite_plot.svg(a_run())
    assert drawn == suite_plot.svg(a_run())
    root = ElementTree.fromstring(drawn)
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"focus", "trim", "random", "90.0", "85.0", "50.0", "all 576 tokens: 92.0 %"} <= set(texts)
    lines = list(root.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 3
    heights = [float(line.get("points", "").split()[0].partition(",")[2]) for line in lines]
    assert heights == sorted(heights, reverse=True)  # the worst is drawn first, at the bottom
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.get(name, "1")) <= 920


def test_a_plot_without_arms_says_so() -> None:
    assert "no arm" in suite_plot.svg(a_run(arms=[arm("none", "default", 0.9, 576.0)]))


def test_the_plot_is_written_where_there_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert tables.plots() == []
    made = json.dumps({"provenance": PROVENANCE, "results": [a_run()]})
    (tmp_path / "suite_ten_types.json").write_text(made, encoding="utf-8")
    ((path, drawn),) = tables.plots()
    assert path.name == "suite_ten_types.svg"
    assert drawn == suite_plot.svg(a_run())
    assert "Source: `benchmarks/results/suite_ten_types.json`, 2026-01-02" in tables.found_tables()["suite-ten-types"]()
