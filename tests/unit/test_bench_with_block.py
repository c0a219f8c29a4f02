"""What ``benchmarks.bench_with_block`` times, and the table of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bench_with_block


def test_a_result_and_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_with_block, "NEW_TOKENS", 2)
    threads, out = str(torch.get_num_threads()), tmp_path / "block.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--repeats", "2", "--threads", threads, "--out", str(out)])
    bench_with_block.main()
    record = json.loads(out.read_text(encoding="utf-8"))
    assert set(record["results"]["cold"]["over_attached"]) == {"block", "first_block"}
    assert set(record["results"]["warm"]["over_attached"]) == {"block"}
    assert all(took["runs"] == 2 for case in record["results"].values() for took in case["seconds"].values())
    assert bench_with_block.shown(record).count("\n| ") == 6


def test_cold_is_cold_and_warm_is_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_with_block, "NEW_TOKENS", 2)
    rounds, stock = bench_with_block.Rounds(), bench_with_block._generate
    encoded: list[int] = []
    rounds.model.model.vision_tower.embeddings.register_forward_hook(lambda *_: encoded.append(1))
    passes: list[int] = []

    def counted(model: Any, inputs: Any) -> None:
        before = len(encoded)
        stock(model, inputs)
        passes.append(len(encoded) - before)

    monkeypatch.setattr(bench_with_block, "_generate", counted)
    cases = [("attached", True), ("attached", False), ("block", True), ("block", False), ("first_block", True)]
    for arm, cold in cases:
        rounds.time(arm, 1, cold=cold)
    assert passes == [1, 0, 1, 0, 1]
