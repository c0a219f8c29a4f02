"""Result files become tables: what is shown, where it says it comes from, and what stands there before there is a result."""

from __future__ import annotations

import json
import platform
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import benchmarks
from benchmarks import bench_tables, blocks, demo_tables, records, run, tables

TABLES = tables.found_tables()
PROVENANCE = {
    "date": "2026-01-02",
    "hardware": {"device": "cpu", "cpu": "A CPU", "threads": 2},
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
}


def arm(method: str, kept: float, accuracy: float, **extra: Any) -> dict[str, Any]:
    return {
        "command": ["trimkit", "eval", "scenes", "--method", method],
        "method": method,
        "budget": "iqr",
        "n": 600,
        "seed": 3,
        "accuracy": accuracy,
        "ci95": [accuracy - 0.02, accuracy + 0.02],
        "accuracy_by_type": dict.fromkeys(demo_tables.TYPES, accuracy),
        "ci95_by_type": {kind: [accuracy - 0.05, accuracy + 0.05] for kind in demo_tables.TYPES},
        "image_tokens_full": 576,
        "image_tokens_kept_mean": kept,
        **extra,
    }


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", TABLES)
def test_without_a_result_the_table_says_how_to_get_one(results: Path, name: str) -> None:
    assert TABLES[name]().startswith("*Not measured yet: `python -m benchmarks.")


def test_demo_tables(results: Path) -> None:
    arms = [arm("none", 576, 0.95), arm("trim", 110.4, 0.93), arm("random", 110.4, 0.6), arm("trim-paper", 9, 0.5)]
    record = {"experiment": "demo_scenes", "provenance": PROVENANCE, "results": arms}
    (results / "demo_scenes.json").write_text(json.dumps(record), encoding="utf-8")
    heading, full = TABLES["demo"](), TABLES["demo-full"]()
    assert "| `trim` | 110 | 93.0 % |" in heading
    assert "600 questions on held-out scenes, seed 3" in heading
    assert "trim-paper" not in heading
    assert "`trim-paper`" in full
    for text in (heading, full):
        assert "`benchmarks/results/demo_scenes.json`, 2026-01-02, A CPU, 2 threads, torch 2.13.0" in text
        for kind in demo_tables.TYPES:
            assert kind.replace("_", " ") in text


def test_bench_tables(results: Path) -> None:
    from trimkit.bench.run import Settings, bench

    settings = {"random": "small", "layers": 1, "questions": 2, "repeats": 1, "device": "cpu", "dtype": "float32"}
    record = {"provenance": PROVENANCE, "results": [bench(Settings(**settings))]}
    for name, (experiment, _) in bench_tables.MAKERS.items():
        (results / f"{experiment}.json").write_text(json.dumps(record), encoding="utf-8")
        shown = TABLES[name]()
        assert "`small`, 1 of 2 layers" in shown, name
        assert f"Source: `benchmarks/results/{experiment}.json`" in shown
        header, _, *rows = [line for line in shown.splitlines() if line.startswith("|")]
        assert {line.count("|") for line in rows} == {header.count("|")}, name
    assert "| 21 of 100 |" in TABLES["bench"]()
    assert "**extrapolated** | 1 | 79 % |" in TABLES["bench-claim"]()


def test_an_experiment_takes_the_arguments_of_its_kind_of_machine() -> None:
    config = {"arguments": {"repeats": 9, "layers": 1}, "on": {"cuda": {"device": "cuda"}, "cpu": {"layers": 4}}}
    assert run.placed(config, "cpu") == {"arguments": {"repeats": 9, "layers": 4}}
    assert run.placed(config, "cuda")["arguments"] == {"repeats": 9, "layers": 1, "device": "cuda"}
    assert run.placed({"arms": [{}], "on": {"cpu": {"arms": [{"layers": 2}]}}}, "cpu")["arms"] == [{"layers": 2}]
    assert run.placed({"arms": []}, "cpu") == {"arms": [], "arguments": {}}


def test_training_table(results: Path) -> None:
    def both(full: float, trim: float) -> dict[str, Any]:
        spreads = {"none": {"median": full}, "trim": {"median": trim}, "ratio_by_step": {"q1": 0.2, "q3": 0.3}}
        return {**spreads, "ratio": trim / full}

    share = {"accuracy": 0.95, "ci95": [0.94, 0.96], "n": 600}
    names = ("before", "full_asked_full", "trim_asked_trim", "trim_asked_full", "full_asked_trim")
    record = {
        "provenance": PROVENANCE,
        "config": {"steps": 100, "batch": 8, "n": 600, "seed": 0, "dtype": "float32"},
        "seconds": both(4.0, 1.0),
        "from_features": both(3.5, 0.5),
        "tokens": both(4800, 1000),
        "memory": {
            "none": {"above_mb": 900, "peak_mb": 1500},
            "trim": {"above_mb": 300, "peak_mb": 900},
            "above_ratio": 1 / 3,
            "peak_ratio": 0.6,
        },
        "accuracy": {
            **dict.fromkeys(names, share),
            "before": {**share, "accuracy": 0.01},
            "difference": {"value": -0.005, "ci95": [-0.01, 0.002]},
        },
    }
    (results / "training.json").write_text(json.dumps(record), encoding="utf-8")
    shown = TABLES["training"]()
    assert "| time of a step | 4.00 s | 1.00 s | 0.25 (0.20 to 0.30) |" in shown
    assert "| peak memory of the process | 1500 MB | 900 MB | 0.60 |" in shown
    assert "-0.5 points (-1.0 to 0.2) |" in shown
    assert "before training 1.0 % right" in shown


def test_blocks_are_filled_and_the_rest_is_left_alone() -> None:
    page = "a\n<!-- table:x -->\nold\n<!-- /table:x -->\nb\n<!-- generated:y -->\n<!-- /generated:y -->\n"
    filled = blocks.fill(page, {"x": lambda: "new"}, "table")
    assert filled == page.replace("old", "new")
    assert blocks.fill(filled, {"x": lambda: "new"}, "table") == filled


def test_a_block_that_nobody_makes_is_an_error() -> None:
    with pytest.raises(KeyError):
        blocks.fill("<!-- table:typo -->\n<!-- /table:typo -->", {}, "table")


def test_experiments_are_commands(results: Path) -> None:
    """Every arm of every config is a line that the CLI accepts."""
    from typer.main import get_command

    from tests.docs.test_readme import _check_command
    from trimkit.cli import app

    paths = sorted(run.EXPERIMENTS.glob("*.json"))
    assert paths
    for path in paths:
        config = json.loads(path.read_text(encoding="utf-8"))
        for one in config["arms"]:
            _check_command(get_command(app), run.command_line(config, one))


def test_an_interrupted_experiment_goes_on_at_the_arm_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    def run_arm(_: dict[str, Any], arm: dict[str, Any]) -> dict[str, Any]:
        if arm["seed"] == stop:
            raise KeyboardInterrupt
        ran.append(arm["seed"])
        return {"took": arm["seed"]}

    monkeypatch.setattr(run, "run_arm", run_arm)
    out = tmp_path / "x.json"
    config, same = {"arms": [{"seed": 1}, {"seed": 2}, {"seed": 3}]}, {**PROVENANCE, "changed_files": 0}
    stop = 2
    with pytest.raises(KeyboardInterrupt):
        run.complete({"config": config, "provenance": same}, out)
    assert not out.exists()
    stop = 0
    run.complete({"config": config, "provenance": same}, out)
    assert ran == [1, 2, 3]
    assert json.loads(out.read_text())["results"] == [{"took": 1}, {"took": 2}, {"took": 3}]
    assert list(tmp_path.iterdir()) == [out]
    for changed, ends in (
        ({"commit": "another"}, [1, 2, 3]),
        ({"changed_files": 1}, [1, 2, 3]),
        ({"date": "later"}, [3]),
    ):
        ran.clear()
        about = {**same, **changed}
        stop = 3
        with pytest.raises(KeyboardInterrupt):
            run.complete({"config": config, "provenance": about if "changed_files" in changed else same}, out)
        stop = 0
        ran.clear()
        run.complete({"config": config, "provenance": about}, out)
        assert ran == ends, changed


def test_provenance_names_versions_and_hardware_but_no_machine() -> None:
    found = run.provenance()
    assert found["versions"]["torch"]
    assert found["hardware"]["cores"] >= 1
    assert platform.node() not in json.dumps(found)


def test_a_table_that_no_page_shows_gets_a_section(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("planted", "What is it worth?\n\nMore.")
    module.__dict__["TABLES"] = {"shown": lambda: "1", "new": lambda: "2"}
    monkeypatch.setattr(tables, "_modules", lambda: [module])
    other = Path("other.md")
    texts = {tables.HOME: "# Benchmarks\n", other: "<!-- table:shown -->\n<!-- /table:shown -->\n"}
    found = tables.with_new_sections(texts)
    section = "## `new`\n\nWhat is it worth?\n\n<!-- table:new -->\n<!-- /table:new -->\n"
    assert found == {tables.HOME: f"# Benchmarks\n\n{section}", other: texts[other]}
    assert tables.with_new_sections(found) == found


def test_an_experiment_has_one_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("benchmarks.cells")
    module.__dict__["EXPERIMENT"] = {"command": ["methods"], "arguments": {"n": 1}, "arms": [{}]}
    monkeypatch.setitem(sys.modules, "benchmarks.cells", module)
    monkeypatch.setattr(run, "EXPERIMENTS", tmp_path)
    run.config_of("cells")["arguments"]["n"] = 2
    assert run.config_of("cells")["arguments"]["n"] == 1
    (tmp_path / "cells.json").write_text("{}", encoding="utf-8")
    with pytest.raises(LookupError, match=r"in cells\.json and in cells\.py: keep one"):
        run.config_of("cells")
    with pytest.raises(
        LookupError, match=r"no experiment 'records': give EXPERIMENT in benchmarks/records\.py, or one"
    ):
        run.config_of("records")


def test_a_new_benchmark_is_one_file(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = tmp_path / "more"
    more.mkdir()
    text = """
from benchmarks.records import made_of
TABLES = {"planted": made_of("planted", lambda record: f"{record['seconds']} s.", "planted_bench")}
"""
    (more / "planted_bench.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(more)])
    try:
        shown = tables.found_tables()["planted"]
        assert (
            shown()
            == "*Not measured yet: `python -m benchmarks.planted_bench` writes `benchmarks/results/planted.json`.*"
        )
        (results / "planted.json").write_text(json.dumps({"seconds": 3, "provenance": PROVENANCE}), encoding="utf-8")
        assert shown().startswith("3 s. Source: `benchmarks/results/planted.json`, 2026-01-02")
        (more / "planted_twice.py").write_text(text, encoding="utf-8")
        with pytest.raises(RuntimeError, match=r"'planted' of .*planted_twice is there already"):
            tables.found_tables()
    finally:
        for name in ("planted_bench", "planted_twice"):
            sys.modules.pop(f"benchmarks.{name}", None)
            vars(benchmarks).pop(name, None)
