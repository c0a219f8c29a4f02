"""What ``benchmarks.bench_steps`` compares is the same work done in two ways."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bench_steps
from trimkit.bench.build import build_llava
from trimkit.bench.shapes import shape_of
from trimkit.core.types import ImageTokens


@pytest.fixture(scope="module")
def both() -> list[tuple[Any, Any]]:
    shape = shape_of("small")
    model = build_llava(shape, device=torch.device("cpu"), dtype=torch.float32)
    pixels = torch.randn(bench_steps.AT_ONCE, 3, shape.image_size, shape.image_size)
    with torch.no_grad():
        return [(before(), after()) for _, _, before, after in bench_steps.steps(model, pixels).values()]


def test_both_ways_give_the_same(both: list[tuple[Any, Any]]) -> None:
    last, projector, attention, one_by_one, half = both
    assert torch.equal(last[0].hidden_states[-2], last[1][-2])
    kept = len(projector[1][0])
    torch.testing.assert_close(projector[0][0][:kept], projector[1][0])
    (heard,) = attention[1]
    assert isinstance(heard, ImageTokens)
    assert heard.cls_attention is not None
    row = attention[0].attentions[-2][0, :, 0, 1:].mean(dim=0)  # of the layer whose output is hidden_states[-2]
    torch.testing.assert_close(heard.cls_attention, row)
    torch.testing.assert_close(torch.cat(one_by_one[0]), torch.cat(one_by_one[1]))
    torch.testing.assert_close(half[0][-2], half[1][-2].float(), rtol=0.1, atol=0.2)


def test_a_result_and_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_steps, "SHAPE", "small")
    threads, out = str(torch.get_num_threads()), tmp_path / "steps.json"
    monkeypatch.setattr(sys, "argv", ["bench_steps", "--repeats", "2", "--threads", threads, "--out", str(out)])
    bench_steps.main()
    record = json.loads(out.read_text(encoding="utf-8"))
    assert len(record["results"]) == 5
    assert all(step["ratio"]["runs"] == 2 for step in record["results"].values())
    assert bench_steps.shown(record).count("\n| ") == 6
