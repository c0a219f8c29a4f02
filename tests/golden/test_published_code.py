"""Methods against vectors of their published code: any directory laid out as the default ones, via --rivals-dir."""

from __future__ import annotations

from pathlib import Path

from tests.rivals.adapters import ADAPTERS
from tests.rivals.vectors import check, read


def test_a_method_chooses_what_its_published_code_chooses(rival_vector: tuple[Path, str]) -> None:
    vector = read(*rival_vector)
    assert vector.method in ADAPTERS, f"tests/rivals has no adapter for {vector.method!r}"
    check(vector, ADAPTERS[vector.method])
