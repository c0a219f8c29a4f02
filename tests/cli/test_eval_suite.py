"""``trimkit eval suite``: what it prints, what it refuses, and grids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli
from trimkit.cli import eval_suite
from trimkit.eval import suite
from trimkit.eval.suite import Outcomes, Plan
from trimkit.methods import method_classes

KINDS = ("existence", "attribute")


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Plans that were run, without a model: everything is right but what ``random`` says."""
    seen: list[Plan] = []

    def run(plan: Plan, **_: Any) -> Outcomes:
        seen.append(plan)
        rows: Any = {
            arm.task: {i: {"hit": int(arm.method.name != "random"), "kept": 32, "full": 576} for i in range(plan.n)}
            for arm in plan.arms
        }
        return Outcomes(plan, tuple(KINDS[i % 2] for i in range(plan.n)), rows)

    monkeypatch.setattr(suite, "run", run)
    return seen


def test_one_small_run(cli: Cli, tmp_path: Path) -> None:
    """With the model: tokens, comparisons and the file are there, and a second run asks nothing."""
    journal, out = str(tmp_path / "journal.jsonl"), tmp_path / "suite.json"
    words = ("eval", "suite", "--n", "2", "--batch-size", "2", "--method", "focus,random", "--budget", "32")
    outcome = cli(*words, "--journal", journal, "--json", "-o", str(out))
    assert (outcome.code, outcome.err) == (0, "")
    printed = json.loads(outcome.out)
    assert printed == json.loads(out.read_text())
    assert [arm["label"] for arm in printed["arms"]] == ["none", "focus@32", "random@32"]
    assert [arm["image_tokens_kept_mean"] for arm in printed["arms"]] == [576, 32, 32]
    assert [entry["other"] for entry in printed["comparisons"]] == ["random@32"]
    lines = Path(journal).read_text().splitlines()
    assert json.loads(cli(*words, "--journal", journal, "--json").out) == printed
    assert Path(journal).read_text().splitlines() == lines


def test_all_methods_and_budgets(cli: Cli, plans: list[Plan]) -> None:
    outcome = cli("eval", "suite", "--n", "4")
    assert outcome.code == 0
    labels = [arm.label for arm in plans[0].arms]
    for name, _ in method_classes():
        assert name in labels
        assert all((f"{name}@{budget}" in labels) == (name != "none") for budget in (144, 64, 32, 16, 8))
    assert labels[0] == "none"
    assert len(labels) == len(set(labels))
    assert "focus@32 minus random@32: +100.0 points (+100.0 to +100.0, significant)" in outcome.out
    assert "focus@32 minus focus" not in outcome.out


def test_trim_released_comes_with_the_towers_sign_too(cli: Cli, plans: list[Plan]) -> None:
    """Quirks kept; the literal run has the sign of OpenAI's CLIP."""
    for words in ((), ("--method", "trim-released sign=auto,trim-released", "--budget", "64")):
        assert cli("eval", "suite", "--n", "4", *words).code == 0
    for plan in plans:
        arms = {arm.label: arm.method for arm in plan.arms}
        own, literal = arms["trim-released sign=auto@64"], arms["trim-released@64"]
        assert (own.sign, literal.sign) == ("auto", -1)
        assert own.model_dump(exclude={"sign"}) == literal.model_dump(exclude={"sign"})


def test_types_take_turns(cli: Cli, plans: list[Plan]) -> None:
    for types in ("basic", "hard", "all", "grounding, counting"):
        assert cli("eval", "suite", "--n", "4", "--method", "focus", "--types", types).code == 0
    assert [len(plan.types) for plan in plans] == [6, 4, 10, 2]
    assert plans[3].types == ("grounding", "counting")


def test_what_the_full_model_does_not_know_is_said(
    cli: Cli, plans: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimkit.eval import suite_filter

    words = ("eval", "suite", "--n", "4", "--method", "focus,resize", "--budget", "64")
    assert "not learnt" not in cli(*words).out
    monkeypatch.setattr(suite_filter, "LEARNT", 1.1)
    assert "not learnt, below 85% with all tokens: existence, attribute" in cli(*words).out


def test_a_grid(cli: Cli, plans: list[Plan]) -> None:
    outcome = cli("eval", "suite", "--n", "4", "--grid", "trim sign=1|-1 budget=iqr|0.2 normalize=false")
    assert outcome.code == 0
    chosen = [(arm.method.name, arm.method.sign, str(arm.method.budget)) for arm in plans[0].arms[1:]]
    assert chosen == [("trim", 1, "iqr"), ("trim", 1, "0.2"), ("trim", -1, "iqr"), ("trim", -1, "0.2")]
    assert "trim, sign 1 to -1: alone +0.0 points" in outcome.out
    assert "trim, budget iqr to 0.2: alone" in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shift", "sepia"), "shift 'sepia' is not known"),
        (("--n", "0"), "n 0 asks nothing"),
        (("--types", "sums"), "question type 'sums' is not known"),
        (("--types", "counting,counting"), "take turns"),
        (("--method", "trim,,focus"), "a comma too many"),
        (("--method", "trim sign"), "is not OPTION=VALUE"),
        (("--method", "trimm"), "did you mean 'trim'"),
        (("--budget", "none"), "budget 'none' is not a budget"),
        (("--grid", "trim"), "--grid 'trim' is not"),
        (("--grid", "trim sign"), "--grid 'trim sign' is not"),
        (("--grid", ""), "--grid '' is not"),
        (("--grid", "trim method=trim|random"), "--grid 'trim method=trim|random' is not"),
        (("-o", "/dev/null"), "it is not a regular file"),
        (("-o", "x" * 300 + ".json"), "cannot write"),
        (("-o", "~nobody-has-this-name/x.json"), "there is no such home directory"),
        (("--grid", "trim colour=1|2"), "has no option 'colour'"),
        (("--positions", "left"), "positions='left' is not known"),
        (("--workers", "0"), "workers 0"),
        (("-o", "/nowhere/at/all.json"), "cannot write"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(cli: Cli, words: tuple[str, ...], message: str) -> None:
    outcome = cli("eval", "suite", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_ours_is_a_method() -> None:
    assert eval_suite._OURS in dict(method_classes())
