"""The matrix of families and checks, as the contract tests found it: ``pytest tests/contract --matrix FILE`` writes it.

What the file says of families that are not run stays. With ``--matrix-missing`` only those that it does not have are run.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from pathlib import Path
from typing import Any

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
    """Counts outcomes by family and check, and merges them into the file when the session ends.

    Args:
        path: the file; it may be there already.
        missing: run nothing but families that the file does not have.
    """

    def __init__(self, path: Path, *, missing: bool = False) -> None:
        self._path, self._missing = path, missing
        self._before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self._of: dict[str, tuple[str, str]] = {}
        self._counts: dict[str, dict[str, Counter[str]]] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        for item in items:
            check, params = CHECKS.get(getattr(item, "originalname", "")), getattr(item, "callspec", None)
            family = None if params is None else params.params.get("case", params.params.get("name"))
            if Path(item.path).stem == "test_videos":
                check = VIDEO
            if check is not None and isinstance(family, str):
                self._of[item.nodeid] = (family, check)
        if self._missing:
            left = [item for item in items if not self._wanted(item.nodeid)]
            items[:] = [item for item in items if self._wanted(item.nodeid)]
            config.hook.pytest_deselected(items=left)

    def _wanted(self, nodeid: str) -> bool:
        return nodeid in self._of and self._of[nodeid][0] not in self._before.get("families", {})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid in self._of and (report.when == "call" or report.outcome != "passed"):
            family, check = self._of[report.nodeid]
            self._counts.setdefault(family, {}).setdefault(check, Counter())[report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        if not self._counts:
            return
        found = {
            family: {check: dict(sorted(counts.items())) for check, counts in checks.items()}
            for family, checks in self._counts.items()
        }
        now = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "versions": versions()}
        kept = self._before.get("families", {})
        older = {"date": self._before.get("date"), "versions": self._before.get("versions")}
        measured = dict.fromkeys(kept, older) | self._before.get("measured", {})
        record = {
            "experiment": "families",
            "command": "make matrix",
            **now,
            "checks": [*CHECKS.values(), VIDEO],
            "families": dict(sorted((kept | found).items())),
            "measured": dict(sorted((measured | dict.fromkeys(found, now)).items())),
        }
        self._path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
