"""The paired bootstrap: values, intervals that hold the truth as often as they say, and pairing that takes questions out."""

from __future__ import annotations

import numpy as np
import pytest

from trimkit.errors import ConfigError
from trimkit.eval.statistics import PairedBootstrap, holm


def answers(seed: int, n: int = 400) -> dict[str, list[int]]:
    """Two arms that share most of what makes a question hard; the second loses 5 points."""
    drawn = np.random.default_rng(seed).random((2, n))
    first = drawn[0] < 0.8
    return {"a": first.astype(int).tolist(), "b": (first & (drawn[1] < 0.9375)).astype(int).tolist()}


def test_shares_and_differences_are_those_of_the_answers() -> None:
    boot = PairedBootstrap({"a": [1, 1, 1, 0], "b": [1, 0, 0, 0], "c": [0, 0, 0, 0]}, resamples=50)
    assert boot.accuracy("a") == 0.75
    assert boot.difference("a", "b")["value"] == 0.5
    assert boot.ratio("b", "a")["value"] == pytest.approx(1 / 3)
    assert boot.ratio("a", "c") == {"value": None, "ci95": None}
    assert boot.contrast({"a": 1.0, "b": -0.5, "c": -0.5})["value"] == 0.625


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    low, high = PairedBootstrap({"a": [1] * 300 + [0] * 100}).interval("a")
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert (low, high) == (pytest.approx(0.75 - half, abs=0.006), pytest.approx(0.75 + half, abs=0.006))


def test_questions_are_drawn_together() -> None:
    """Independent draws of the two arms would make this interval about three times as wide."""
    boot = PairedBootstrap(answers(0))
    gap = boot.difference("a", "b")
    gaps = np.array(answers(0)["a"]) - np.array(answers(0)["b"])
    half = 1.96 * gaps.std() / 400**0.5
    assert gap["ci95"] == [pytest.approx(gap["value"] - half, abs=0.006), pytest.approx(gap["value"] + half, abs=0.006)]
    assert gap["significant"]


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = 0
    for seed in range(200):
        low, high = PairedBootstrap(answers(seed), resamples=300).difference("a", "b")["ci95"]
        held += low <= 0.05 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_equal_arms_do_not_differ() -> None:
    boot = PairedBootstrap({"a": [1, 0, 1, 1], "b": [1, 0, 1, 1], "c": [0, 1, 1, 1]}, resamples=200)
    for other in ("a", "b"):
        assert boot.difference("a", other) == {"value": 0.0, "ci95": [0.0, 0.0], "significant": False, "p": 1.0}
    assert not boot.difference("a", "c")["significant"]


def test_the_seed_decides() -> None:
    first, again, other = (PairedBootstrap(answers(1), resamples=600, seed=s).interval("b") for s in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("hits", [{}, {"a": []}, {"a": [1, 0], "b": [1]}])
def test_what_cannot_be_compared_is_refused(hits: dict[str, list[int]]) -> None:
    with pytest.raises(ConfigError, match="same questions"):
        PairedBootstrap(hits)


@pytest.mark.parametrize(("n", "right", "known"), [(2, 1, False), (10, 2, False), (100, 3, False), (100, 6, True)])
def test_a_share_of_next_to_nothing_has_no_interval(n: int, right: int, known: bool) -> None:
    """Where the full model is hardly ever right, resamples in which it never is would make the share boundless."""
    full = [1] * right + [0] * (n - right)
    found = PairedBootstrap({"none": full, "trim": [1, 1, *full[2:]]}).ratio("trim", "none")
    assert found["value"] == pytest.approx((max(right, 2)) / right)
    assert (found["ci95"] is not None) is known
    assert found["ci95"] is None or found["ci95"][1] <= n


def test_p_says_what_the_interval_says() -> None:
    for seed in range(20):
        found = PairedBootstrap(answers(seed), resamples=1000).difference("a", "b")
        assert (found["p"] < 0.049) <= found["significant"] <= (found["p"] < 0.053)


def test_p_values_are_adjusted_for_their_number() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_hundreds_of_comparisons_can_still_be_clear() -> None:
    """Twice the least share of resamples, times 1,350 comparisons, would be above 0.05 whatever the answers are."""
    boot = PairedBootstrap({"a": [1] * 60 + [0] * 40, "b": [0] * 60 + [0] * 40, "c": [1, 0] * 30 + [0] * 40})
    clear = boot.difference("a", "b")["p"]
    assert clear == pytest.approx(2 * 0.5**60)
    assert holm([clear] * 1350)[0] < 1e-10
    assert boot.difference("a", "c")["p"] == pytest.approx(2 * 0.5**30)
