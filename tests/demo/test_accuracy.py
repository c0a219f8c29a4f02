"""What the demo model is shipped for, on scenes it never saw; minutes, so `make test-slow`."""

from __future__ import annotations

from typing import Any

import pytest

from trimkit.demo import load_demo
from trimkit.eval.scenes import evaluate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    model, processor = load_demo()
    return {name: evaluate(model, processor, seed=77, n=300, method=name) for name in ("none", "trim", "random")}


def test_trim_removes_three_quarters_and_random_as_many(results: dict[str, Any]) -> None:
    assert results["none"]["image_tokens_kept_mean"] == 576
    assert results["trim"]["image_tokens_kept_mean"] <= 0.25 * 576
    assert results["random"]["image_tokens_kept_mean"] == pytest.approx(results["trim"]["image_tokens_kept_mean"])


def test_trim_keeps_what_the_full_model_knows(results: dict[str, Any]) -> None:
    named = ("existence", "attribute", "counting")
    full, trim = (sum(results[arm]["accuracy_by_type"][kind] for kind in named) for arm in ("none", "trim"))
    assert trim >= 0.9 * full
