"""``trimkit eval paper-table`` where lmms-eval is not there, and how its table looks; with lmms-eval: tests/lmms."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.conftest import Cli
from trimkit.cli import eval_paper_table
from trimkit.eval import lmms


def test_without_lmms_eval(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_paper_table, "find_spec", lambda name: None)
    outcome = cli("eval", "paper-table", "--method", "random")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "trimkit: lmms-eval is not installed: pip install 'trimkit[eval]'\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--tasks", "pope,pope"), "--tasks names 'pope' twice"),
        (("--batch-size", "0"), "batch size 0 holds nothing"),
        (("--include-path", "/no/such"), "--include-path '/no/such' is not a directory"),
        (("--method", "trimm"), "did you mean 'trim'?"),
    ],
)
def test_errors_are_one_line(given: tuple[str, str], said: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_paper_table, "find_spec", lambda name: True)
    outcome = cli("eval", "paper-table", *given)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    shared: dict[str, Any] = {"relative_mean": 1.0, "image_tokens_kept": 576.0, "skipped": []}
    full = {"method": "none", "scores": {"pope": 85.9, "gqa": 62.0}, "relative": {"pope": 1.0, "gqa": 1.0}}
    skipped = [{"task": "pope", "id": "7", "reason": "it is damaged"}]
    trim = {"method": "trim", "scores": {"pope": 86.759, "gqa": 0.0}, "relative": {"pope": 1.01, "gqa": 0.0}}
    columns = [{"title": "POPE", "task": "pope"}, {"title": "GQA", "task": "gqa"}]
    not_run = [{"task": "mmvet", "reason": "no key"}]
    eval_paper_table.show(
        {"columns": columns, "not_run": not_run, "arms": [{**shared, **full}, {**shared, **trim, "skipped": skipped}]}
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["method", "tokens", "POPE", "GQA", "mean"]
    assert lines[3].split() == ["trim", "576.0", "86.76", "0.00"]
    assert lines[4].split() == ["101.0%", "0.0%", "100.0%"]
    assert len({len(line.rstrip()) for line in (lines[0], lines[2], lines[4])}) == 1
    assert lines[5:] == ["trim: row 7 of pope is skipped: it is damaged", "mmvet is left out: no key"]


@pytest.mark.parametrize("given", [(), ("--json",)])
def test_a_table_without_a_score_is_an_error(
    given: tuple[str, ...], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing could be run: no table is printed or written, and the first reason is said."""
    not_run = [{"task": "pope", "reason": "no data"}, {"task": "mme", "reason": "no data either"}]
    empty = SimpleNamespace(paper_table=lambda *_, **__: {"columns": [], "arms": [], "not_run": not_run})
    monkeypatch.setattr(eval_paper_table, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "trimkit.eval.lmms.table", empty)
    monkeypatch.setattr(lmms, "table", empty, raising=False)
    outcome = cli("eval", "paper-table", "--model", "demo", *given, "-o", str(tmp_path / "table.json"))
    assert (outcome.code, outcome.out) == (2, "")
    said = "trimkit: the table is empty: pope cannot be run (no data), nor can 1 more; name others by --tasks\n"
    assert outcome.err == said
    assert not list(tmp_path.iterdir())


def test_the_scorer_and_the_checkpoints_own_settings_are_handed_on(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "trimkit.json").write_text('{"reduce": {"method": "random", "budget": 9}}')
    given: dict[str, Any] = {}

    def table(model: str, methods: list[Any], columns: Any, **options: Any) -> dict[str, Any]:
        given.update(options, methods=methods)
        return {"columns": [], "arms": [], "not_run": [{"task": "pope", "reason": "no data"}]}

    fake = SimpleNamespace(paper_table=table)
    monkeypatch.setattr(eval_paper_table, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "trimkit.eval.lmms.table", fake)
    monkeypatch.setattr(lmms, "table", fake, raising=False)
    outcome = cli("eval", "paper-table", "--model", str(tmp_path / "model"), "--scorer", "some/clip")
    assert "the table is empty" in outcome.err
    assert given["scorer"] == "some/clip"
    assert [(method.name, method.budget.to_plain()) for method in given["methods"]] == [("random", 9)]


def test_trimkit_does_not_import_lmms_eval() -> None:
    spec = importlib.util.find_spec("trimkit.eval.lmms.plugin")  # found, not loaded
    assert spec is not None
    assert "lmms_eval" not in sys.modules
