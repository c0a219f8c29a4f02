"""Focus: relevance where the map has a peak, coverage where it is flat, no repetition, and the greedy choice it claims."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimkit.errors import ConfigError
from trimkit.methods import get_method
from trimkit.methods.focus import Focus, flatness, pick
from trimkit.reducer import make_batch
from trimkit.types import EncoderProfile, ImageTokens, Selection


def select(features: torch.Tensor, relevance: torch.Tensor, sign: int = 1, **options: Any) -> Selection:
    batch = make_batch([ImageTokens(features)], [relevance], ["what?"], EncoderProfile(sign=sign))
    return get_method("focus", **options).select(batch)[0]


def picture() -> torch.Tensor:
    """24 patches: 12 alike (background), 6 of one object, 6 of another, each object's much alike."""
    generator = torch.Generator().manual_seed(1)
    base = torch.eye(3, 16).repeat_interleave(torch.tensor([12, 6, 6]), dim=0)
    return base + 0.25 * torch.randn(24, 16, generator=generator)


def test_flatness_is_one_for_equal_shares_and_zero_for_a_peak() -> None:
    assert flatness(torch.full((50,), 1 / 50)) == pytest.approx(1.0)
    assert flatness(torch.eye(50)[3]) == 0.0
    assert flatness(torch.tensor([0.5, 0.5, 0.0, 0.0])) == pytest.approx(0.5)
    assert flatness(torch.ones(1)) == 1.0


def test_a_peak_is_kept() -> None:
    relevance = torch.zeros(24)
    relevance[12:18] = 12.0
    kept = select(picture(), relevance, budget=7).indices.tolist()
    assert set(kept) == {12, 13, 14, 15, 16, 17}


def test_both_of_two_relevant_objects_are_seen() -> None:
    """One is more relevant throughout: TRIM gives it every place, focus does not."""
    relevance = torch.zeros(24)
    relevance[12:18], relevance[18:] = 8.0, 7.0
    few = {"budget": 6, "aggregate": "none"}
    plain = select(picture(), relevance, coverage=0.0, redundancy=0.0, **few).indices
    assert plain.tolist() == list(range(12, 18))
    kept = set(select(picture(), relevance, **few).indices.tolist())
    assert kept & set(range(18, 24))
    assert kept & set(range(12, 18))
    assert not kept & set(range(12))


def test_relevant_patches_are_thinned_only_where_there_is_no_room_for_all() -> None:
    """Six patches much alike stand out from others of all kinds: a budget of 8 keeps them all, one of 5 does not."""
    features = torch.randn(24, 32, generator=torch.Generator().manual_seed(4))
    features[18:] = features[18] + 0.01 * features[18:]
    relevance = torch.zeros(24)
    relevance[18:] = torch.linspace(7.0, 8.0, 6)

    def of_the_six(budget: int, coverage: float) -> int:
        kept = select(features, relevance, budget=budget, aggregate="none", coverage=coverage).indices
        return int((kept >= 18).sum())

    assert of_the_six(8, 0.05) == 6
    assert of_the_six(5, 0.05) < 5
    assert of_the_six(8, 1.0) < 6  # the question is not used


def test_a_flat_map_is_covered() -> None:
    """Nothing is relevant: every kind of patch is kept, however small its part of the picture is."""
    kept = select(picture(), torch.zeros(24), budget=3, aggregate="none").indices
    assert sorted((kept >= 12).int().add((kept >= 18).int()).tolist()) == [0, 1, 2]


@pytest.mark.parametrize("coverage", ["auto", 0.0, 0.3])
def test_worth_is_relevance_mixed_with_coverage(coverage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr("trimkit.methods.focus.pick", lambda worth, *rest: seen.append(worth) or pick(worth, *rest))
    relevance = torch.linspace(0, 4, 24)
    select(picture(), relevance, budget=5, coverage=coverage)
    share = torch.softmax(relevance, dim=0).double()
    c = flatness(share) ** 4 if coverage == "auto" else coverage
    assert coverage != "auto" or 0.1 < c < 0.5
    torch.testing.assert_close(seen[0], (1 - c) * share + c / 24)


def test_without_coverage_and_novelty_it_is_trim() -> None:
    generator = torch.Generator().manual_seed(2)
    features, relevance = torch.randn(40, 8, generator=generator), 3 * torch.randn(40, generator=generator)
    batch = make_batch([ImageTokens(features)], [relevance], ["what?"], EncoderProfile(sign=1))
    for budget in ("iqr", 9, 0.5):
        plain = get_method("focus", coverage=0.0, redundancy=0.0, budget=budget).select(batch)[0]
        assert plain.indices.tolist() == get_method("trim", budget=budget).select(batch)[0].indices.tolist()


def test_the_sign_is_the_encoders() -> None:
    relevance = torch.linspace(-6, 6, 24)
    low, high = (select(picture(), relevance, sign=sign, budget=5, redundancy=0.0).indices for sign in (-1, 1))
    assert int(low[0]) == 0
    assert int(high[-1]) == 23


@pytest.mark.parametrize("redundancy", [1.0, 0.5])
def test_the_choice_is_the_greedy_one(redundancy: float) -> None:
    """Novelty by projection (least squares), step by step, gives the same patches in the same order."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(30, 12, generator=generator, dtype=torch.float64)
    worth = torch.rand(30, generator=generator, dtype=torch.float64)
    unit = torch.nn.functional.normalize(features, dim=-1)
    kept: list[int] = []
    for _ in range(8):
        novelty = torch.ones(30, dtype=torch.float64)
        if kept:
            basis = torch.linalg.qr(unit[kept].T).Q
            novelty = 1 - (unit @ basis).square().sum(dim=1)
        gains = worth * novelty.clamp(min=0.0) ** redundancy
        gains[kept] = -1.0
        kept.append(int(gains.argmax()))
    assert pick(worth, features, 8, redundancy).tolist() == kept


@pytest.mark.parametrize("count", [1, 5, 29])
def test_more_than_the_rank_and_equal_patches(count: int) -> None:
    """Once nothing is new, worth decides; each patch is taken once."""
    features = torch.ones(30, 4)
    worth = torch.arange(30, dtype=torch.float64)
    found = pick(worth, features, count).tolist()
    assert found == [29, *range(28, 29 - count, -1)]
    features[3] = float("nan")
    assert len(set(pick(worth, features, count).tolist())) == count


@pytest.mark.parametrize("options", [{"coverage": 1.5}, {"coverage": -0.1}, {"coverage": "some"}, {"redundancy": -1.0}])
def test_what_is_no_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        get_method("focus", **options)


def test_the_default_keeps_a_ninth() -> None:
    assert Focus().budget.tokens(576) == 64
