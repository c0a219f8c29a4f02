"""The matrix of families and checks, as the contract tests found it: ``pytest tests/contract --matrix FILE`` writes it."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from pathlib import Path

import pytest

from trimkit.io.provenance import versions

# test -> what a user reads of it
CHECKS = {
    "test_keep_all_logits_are_stock": "all kept: stock logits",
    "test_keep_all_tokens_are_stock": "all kept: stock greedy and beam tokens",
    "test_reduced_is_hand_built": "reduced = built by hand",
    "test_decoding_goes_on_as_from_the_hand_built_prompt": "decoding = by hand",
    "test_a_ragged_batch_is_its_rows": "ragged batch = its rows",
    "test_sequence_and_cache_shrink": "sequence and cache shorter",
    "test_another_picture_changes_the_logits": "another picture, other logits",
    "test_labels_shrink_with_the_tokens": "training loss",
    "test_a_spot_lands_on_the_tokens_that_see_it": "geometry",
    "test_a_cached_turn_is_the_uncached_one": "cached conversation",
}
VIDEO = "all these with videos"


class Matrix:
    """Counts outcomes by family and check, and writes them when the session ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._of: dict[str, tuple[str, str]] = {}
        self._counts: dict[str, dict[str, Counter[str]]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            check, params = CHECKS.get(getattr(item, "originalname", "")), getattr(item, "callspec", None)
            family = None if params is None else params.params.get("case", params.params.get("name"))
            if Path(item.path).stem == "test_videos":
                check = VIDEO
            if check is not None and isinstance(family, str):
                self._of[item.nodeid] = (family, check)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid in self._of and (report.when == "call" or report.outcome != "passed"):
            family, check = self._of[report.nodeid]
            self._counts.setdefault(family, {}).setdefault(check, Counter())[report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        record = {
            "experiment": "families",
            "command": "make matrix",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "versions": versions(),
            "checks": [*CHECKS.values(), VIDEO],
            "families": {
                family: {check: dict(sorted(counts.items())) for check, counts in checks.items()}
                for family, checks in sorted(self._counts.items())
            },
        }
        self._path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
