"""What is made of two runs of transformers' own tests: counts, differences, and whether trimkit was in the path at all."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.stock import attach_plugin, run

THROUGH = {"generate": 5, "forward": 9, "with_images": 4}


def recorded(outcomes: dict[str, str], calls: dict[str, int] | None = None) -> dict[str, Any]:
    return {"outcomes": outcomes, "messages": {}, "calls": calls or {}, "tests_through": len(calls or {})}


def test_the_same_outcomes_hold() -> None:
    outcomes = {"a": "passed", "b": "skipped", "c": "failed"}
    entry = run.compare("llava", recorded(outcomes), recorded(outcomes, THROUGH))
    assert entry["stock"] == entry["attached"] == {"passed": 1, "skipped": 1, "failed": 1}
    assert entry["differ"] == {}
    assert run.holds(entry)


@pytest.mark.parametrize("attached", [{"a": "failed", "b": "passed"}, {"a": "skipped", "b": "passed"}, {"b": "passed"}])
def test_a_difference_does_not(attached: dict[str, str]) -> None:
    entry = run.compare("llava", recorded({"a": "passed", "b": "passed"}), recorded(attached, THROUGH))
    assert entry["differ"] == {"a": {"stock": "passed", "attached": attached.get("a", "not run")}}
    assert not run.holds(entry)


@pytest.mark.parametrize("missing", THROUGH)
def test_a_run_past_trimkit_does_not(missing: str) -> None:
    calls = {name: count for name, count in THROUGH.items() if name != missing}
    assert not run.holds(run.compare("llava", recorded({"a": "passed"}), recorded({"a": "passed"}, calls)))


def test_the_parts_of_a_test_add_up_to_the_worst(tmp_path: Path) -> None:
    record = attach_plugin.Record()
    for name, outcome in (("a", "passed"), ("a", "failed"), ("a", "passed"), ("b", "passed"), ("b", "skipped")):
        record.add(name, outcome, f"{name} {outcome}")
    record.running = "a"
    record.count("generate")
    record.write(tmp_path / "record.json")
    found = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert found["outcomes"] == {"a": "failed", "b": "skipped"}
    assert found["messages"] == {"a": "a failed"}
    assert found["calls"] == {"generate": 1}
    assert found["tests_through"] == 1


def test_only_generation_tests_are_chosen() -> None:
    class GenerationTesterMixin:
        def test_greedy(self) -> None: ...

    class ModelTest(GenerationTesterMixin):
        def test_config(self) -> None: ...

        def test_it_generates(self) -> None: ...

    class IntegrationTest:
        def test_generation_siglip_backbone(self) -> None: ...

    def chosen(owner: type, name: str) -> bool:
        item: Any = SimpleNamespace(cls=owner, originalname=name)
        return attach_plugin.is_generation_test(item)

    assert chosen(ModelTest, "test_greedy")
    assert chosen(ModelTest, "test_it_generates")
    assert not chosen(ModelTest, "test_config")
    assert not chosen(IntegrationTest, "test_generation_siglip_backbone")


def test_the_version_of_a_checkout(tmp_path: Path) -> None:
    assert run.checkout_version(tmp_path) == "unknown"
    (tmp_path / "setup.py").write_text('setup(\n    name="transformers",\n    version="5.23.0",\n)\n', encoding="utf-8")
    assert run.checkout_version(tmp_path) == "5.23.0"
