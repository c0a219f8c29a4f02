"""Methods against vectors of their published code: any directory laid out as the default ones, via --rivals-dir."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rivals.adapters import ADAPTERS
from tests.rivals.vectors import check, read

PENDING = {  # whose adapter (and, but for the nine of golden/rivals, method) is being written
    *("apet", "cdpruner", "dart", "divprune", "flowcut", "hiprune", "holov", "mmtok", "prumerge", "prumerge-plus"),
    *("prunesid", "pyramiddrop", "scope", "sparsevlm", "sparsevlm-plus", "vispruner", "visionzip"),
}


def test_a_method_chooses_what_its_published_code_chooses(rival_vector: tuple[Path, str]) -> None:
    vector = read(*rival_vector)
    if vector.method in PENDING - set(ADAPTERS):
        pytest.xfail(f"there is no adapter for {vector.method!r} yet")
    assert vector.method in ADAPTERS, f"tests/rivals has no adapter for {vector.method!r}"
    check(vector, ADAPTERS[vector.method])
