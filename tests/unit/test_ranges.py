"""Every range in pyproject.toml has two ends, and what the library says of versions elsewhere agrees with it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import ranges
from trimkit.attach.requirements import MINIMUM_TRANSFORMERS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = [each for extra in PROJECT["optional-dependencies"].values() for each in extra]


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *EXTRAS], ids=ranges.name_of)
def test_a_range_ends_at_what_was_tested(text: str) -> None:
    assert "<" in {each.operator for each in Requirement(text).specifier}


@pytest.mark.parametrize("text", PROJECT["dependencies"], ids=ranges.name_of)
def test_a_range_begins_somewhere(text: str) -> None:
    assert ">=" in {each.operator for each in Requirement(text).specifier}


def test_the_pins_are_within() -> None:
    pins = [Requirement(line) for line in _lines(ROOT / "constraints.txt")]
    wanted = {Requirement(text).name: Requirement(text).specifier for text in PROJECT["dependencies"]}
    assert [pin.name for pin in pins] == ["torch", "transformers"]
    for pin in pins:
        (version,) = pin.specifier
        assert version.version in wanted[pin.name]


def test_the_oldest_transformers_is_the_one_that_attach_asks_for() -> None:
    assert f"transformers=={MINIMUM_TRANSFORMERS}" in ranges.requirements("oldest")


def test_make_test_lmms_installs_the_pins_of_the_extra() -> None:
    """Lmms-eval itself goes in on its own there, without its dependencies."""
    lines = _lines(ROOT / "tests" / "lmms" / "requirements.txt")
    assert [each for each in PROJECT["optional-dependencies"]["eval"] if not each.startswith("lmms-eval")] == [
        line for line in lines if ranges.name_of(line) != line
    ]
    assert PROJECT["optional-dependencies"]["eval"][0] in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_both_ends_as_requirements() -> None:
    newest, oldest = (list(ranges.requirements(end)) for end in ("newest", "oldest"))
    assert {"transformers", "pydantic", "pytest"} <= set(newest)
    assert not [each for each in newest if re.search(r"[<>=]", each)]
    assert {ranges.name_of(each) for each in oldest} == set(newest) - ranges.NOT_BESIDE_OLDEST
    names = {ranges.name_of(text) for text in PROJECT["dependencies"]} - {"torch"}
    assert all(Version(each.split("==")[1]) for each in oldest if ranges.name_of(each) in names)
    assert "torch" not in newest


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
