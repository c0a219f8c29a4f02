"""The matrix of families keeps the rows of families that were not run, each with its own date and versions."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.matrix import Matrix

OLD = {"date": "2026-01-01", "versions": {"torch": "1"}}
ROW = {"geometry": {"passed": 3}}


def item(family: str, name: str = "test_a_spot_lands_on_the_tokens_that_see_it") -> Any:
    nodeid = f"tests/contract/test_geometry.py::{name}[{family}]"
    return SimpleNamespace(
        nodeid=nodeid,
        originalname=name,
        path=Path("test_geometry.py"),
        callspec=SimpleNamespace(params={"case": family}),
    )


def session(matrix: Matrix, items: list[Any]) -> list[Any]:
    """Run the items, and write; returns those that were left out."""
    left: list[Any] = []
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: left.extend(items)))
    matrix.pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]
    for each in items:
        matrix.pytest_runtest_logreport(SimpleNamespace(nodeid=each.nodeid, when="call", outcome="passed"))  # type: ignore[arg-type]
    matrix.pytest_sessionfinish()
    return left


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "families.json"
    path.write_text(json.dumps({**OLD, "families": {"llava": ROW, "ovis2": ROW}}))
    return path


def test_only_missing_families_are_run(written: Path) -> None:
    items = [item("llava"), item("llama4"), item("llama4", "test_something_else")]
    left = session(Matrix(written, missing=True), items)
    assert [each.nodeid for each in items] == [item("llama4").nodeid]
    assert len(left) == 2


def test_rows_are_merged_each_with_where_it_comes_from(written: Path) -> None:
    session(Matrix(written, missing=True), [item("llava"), item("llama4")])
    record = json.loads(written.read_text())
    assert record["families"] == {"llama4": {"geometry": {"passed": 1}}, "llava": ROW, "ovis2": ROW}
    assert record["measured"]["llava"] == record["measured"]["ovis2"] == OLD
    assert record["measured"]["llama4"] == {"date": record["date"], "versions": record["versions"]}
    assert record["date"] > OLD["date"]


def test_a_family_that_is_run_again_has_a_new_row(written: Path) -> None:
    session(Matrix(written), [item("llava")])
    again = json.loads(written.read_text())
    assert again["families"] == {"llava": {"geometry": {"passed": 1}}, "ovis2": ROW}
    assert again["measured"]["llava"]["date"] != OLD["date"] == again["measured"]["ovis2"]["date"]


def test_a_session_that_ran_nothing_leaves_the_file(written: Path) -> None:
    before = written.read_bytes()
    session(Matrix(written, missing=True), [item("llava")])
    assert written.read_bytes() == before
