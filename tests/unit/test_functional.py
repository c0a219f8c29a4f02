"""The tensor functions against plain numpy, and every odd case that their docstring defines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from trimkit.core import functional as F

NAN, INF = float("nan"), float("inf")


def _ragged(seed: int, lengths: list[int]) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    logits = 2.0 * torch.randn(len(lengths), max(lengths))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return F.relevance_to_scores(logits, mask), mask


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iqr_is_numpys(seed: int, dtype: torch.dtype) -> None:
    scores, mask = _ragged(seed, [50, 7, 31, 2, 64])
    keep = F.iqr_select(scores.to(dtype), mask, min_tokens=0)
    for row, real, kept in zip(scores, mask, keep, strict=True):
        values = row[real].double().numpy()
        q1, q3 = np.percentile(values, [25, 75])
        assert kept.nonzero().squeeze(1).tolist() == np.flatnonzero(values > q3 + 1.5 * (q3 - q1)).tolist()


def test_iqr_never_keeps_more_than_a_quarter() -> None:
    scores = F.relevance_to_scores(50.0 * torch.randn(200, 64, generator=torch.Generator().manual_seed(0)))
    counts = F.iqr_select(scores).sum(dim=1)
    assert counts.max() <= 16
    assert counts.max() > 8


@pytest.mark.parametrize("select", ["iqr", "count", "top-p"])
def test_a_batch_equals_its_rows(select: str) -> None:
    scores, mask = _ragged(1, [50, 7, 31, 64])
    choose = {
        "iqr": lambda s, m: F.iqr_select(s, m),
        "count": lambda s, m: F.count_select(s, 9, m),
        "top-p": lambda s, m: F.top_p_select(s, 0.6, m),
    }[select]
    together = choose(scores, mask)
    for row in range(len(scores)):
        alone = choose(scores[row : row + 1, mask[row]], None)
        assert together[row, mask[row]].tolist() == alone[0].tolist()
        assert not together[row, ~mask[row]].any()


def test_no_outlier_keeps_the_floor_lowest_index_first() -> None:
    flat = torch.full((1, 10), 0.1)
    assert F.iqr_select(flat, min_tokens=3)[0].nonzero().squeeze(1).tolist() == [0, 1, 2]
    assert F.iqr_select(flat, min_tokens=0).sum() == 0


def test_floor_and_cap() -> None:
    scores, _ = _ragged(2, [200])
    free = int(F.iqr_select(scores).sum())
    assert free > 5
    assert int(F.iqr_select(scores, max_tokens=4).sum()) == 4
    assert int(F.iqr_select(scores, min_tokens=free + 7).sum()) == free + 7
    capped = F.iqr_select(scores, max_tokens=4)
    assert scores[capped].min() >= scores[~capped].max()


def test_ties_go_to_the_lower_index() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, 2.0]])
    assert F.count_select(scores, 4)[0].tolist() == [False, True, True, True, True, False]


def test_one_token_and_no_token() -> None:
    assert F.iqr_select(torch.ones(1, 1)).tolist() == [[True]]
    empty = torch.zeros(2, 3, dtype=torch.bool)
    empty[0] = True
    keep = F.iqr_select(F.relevance_to_scores(torch.randn(2, 3), empty), empty)
    assert keep[0].sum() == 1
    assert keep[1].sum() == 0
    assert F.iqr_select(torch.zeros(0, 5)).shape == (0, 5)
    assert F.relevance_to_scores(torch.zeros(1, 0)).shape == (1, 0)


def test_count_beyond_the_image_keeps_all_of_it() -> None:
    scores, mask = _ragged(3, [5, 3])
    assert F.count_select(scores, 99, mask).tolist() == mask.tolist()


@pytest.mark.parametrize(
    ("relevance", "expected"),
    [
        ([1.0, NAN, 5.0, 0.0], [1.0, 0.0, 5.0, 0.0]),
        ([1.0, INF, 5.0, 0.0], [1.0, 5.0, 5.0, 0.0]),
        ([1.0, -INF, 5.0, 0.0], [1.0, 0.0, 5.0, 0.0]),
        ([NAN, NAN, INF, -INF], [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_what_is_not_finite(relevance: list[float], expected: list[float]) -> None:
    values = torch.tensor([relevance])
    assert F.sanitize(values).tolist() == [expected]
    scores = F.relevance_to_scores(values)
    assert torch.isfinite(scores).all()
    assert scores.sum().item() == pytest.approx(1.0)


def test_nan_is_never_preferred() -> None:
    values = torch.randn(1, 40, generator=torch.Generator().manual_seed(1))
    values[0, 7] = NAN
    for sign in (1, -1):
        scores = F.relevance_to_scores(values, sign=sign)
        assert torch.isfinite(scores).all()
        assert scores[0, 7] == scores.min()
        assert not F.count_select(scores, 38)[0, 7]
    values[0, 7] = INF
    assert F.relevance_to_scores(values, sign=1)[0, 7] == F.relevance_to_scores(values, sign=1).max()


def test_sanitize_leaves_finite_values_alone() -> None:
    values = torch.randn(3, 9)
    assert torch.equal(F.sanitize(values), values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_dtype(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    features, text = torch.randn(2, 30, 8).to(dtype), torch.randn(2, 4).to(dtype)
    patches = F.patch_embeddings(
        features, torch.ones(8).to(dtype), torch.zeros(8).to(dtype), torch.randn(4, 8).to(dtype)
    )
    scores = F.relevance_to_scores(F.clip_relevance(patches, text))
    keep = F.iqr_select(scores)
    merged = F.aggregate(features, keep)
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert merged.dtype == dtype
    assert torch.isfinite(merged).all()


def test_relevance_is_dot_product_or_cosine() -> None:
    patches, text = torch.randn(1, 5, 4), torch.randn(1, 4)
    dots = torch.stack([patch @ text[0] for patch in patches[0]])
    torch.testing.assert_close(F.clip_relevance(patches, text)[0], dots)
    cosines = torch.nn.functional.cosine_similarity(patches[0], text, dim=-1)
    torch.testing.assert_close(F.clip_relevance(patches, text, normalize=True)[0], cosines)


def test_sign_and_temperature() -> None:
    relevance = torch.randn(2, 12)
    expected = torch.softmax(-relevance / 0.5, dim=-1)
    torch.testing.assert_close(F.relevance_to_scores(relevance, sign=-1, temperature=0.5), expected)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1.0])
def test_top_p_is_the_fewest_that_reach_the_mass(p: float) -> None:
    scores, mask = _ragged(4, [40, 11])
    keep = F.top_p_select(scores, p, mask)
    for row, kept in zip(scores, keep, strict=True):
        mass = row[kept].sum().item()
        assert mass >= p - 1e-5
        if kept.sum() > 1 and p < 1.0:
            assert mass - row[kept].min().item() < p


def test_aggregate_mean_weighted_and_nothing_left() -> None:
    features = torch.randn(2, 6, 3)
    keep = torch.tensor([[True, False, False, True, False, False], [True] * 6])
    mask = torch.tensor([[True, True, True, True, True, False], [True] * 6])
    merged = F.aggregate(features, keep, mask)
    torch.testing.assert_close(merged[0], features[0, [1, 2, 4]].mean(dim=0))
    assert merged[1].tolist() == [0.0, 0.0, 0.0]
    weights = torch.rand(2, 6)
    weighted = F.aggregate(features, keep, mask, weights)
    expected = (features[0, [1, 2, 4]] * weights[0, [1, 2, 4], None]).sum(0) / weights[0, [1, 2, 4]].sum()
    torch.testing.assert_close(weighted[0], expected)
    flat = F.aggregate(features, keep, mask, torch.zeros(2, 6))
    torch.testing.assert_close(flat[0], merged[0])


def test_released_scope_uses_one_count_for_the_batch() -> None:
    torch.manual_seed(0)
    relevance = torch.stack([0.2 * torch.randn(100), 5.0 * torch.randn(100)])
    scores = F.relevance_to_scores(relevance)
    per_image, batch = F.iqr_count(scores), F.iqr_count(scores, scope="batch")
    assert batch[0] == batch[1]
    assert per_image[0] != per_image[1]


def test_sanitize_says_what_its_definition_says() -> None:
    generator = torch.Generator().manual_seed(3)
    for trial in range(200):
        values = torch.randn(3, 7, generator=generator, dtype=torch.float64 if trial % 2 else torch.float32)
        for broken in (torch.nan, torch.inf, -torch.inf):
            values[torch.rand(3, 7, generator=generator) < 0.1 * (trial % 5)] = broken
        mask = None if trial % 3 else torch.rand(3, 7, generator=generator) < 0.7
        finite = torch.isfinite(values)
        real = finite if mask is None else finite & mask
        for row in range(3):
            left = values[row][real[row]]
            low, high = (left.min(), left.max()) if len(left) else (values.new_zeros(()), values.new_zeros(()))
            expected = torch.where(finite[row], values[row], torch.where(values[row] == torch.inf, high, low))
            assert torch.equal(F.sanitize(values, mask)[row], expected)


@pytest.mark.parametrize("counts", [-1, 0, 2, 9, torch.tensor(2), torch.tensor([1, 3])])
def test_as_many_of_the_highest_are_kept_however_the_count_is_given(counts: int | torch.Tensor) -> None:
    scores = torch.tensor([[1.0, 3.0, torch.nan, 3.0], [2.0, 2.0, 2.0, 5.0]])
    asked = counts.expand(2).tolist() if isinstance(counts, torch.Tensor) else [counts] * 2
    order = [[1, 3, 0, 2], [3, 0, 1, 2]]
    assert F.ranking(scores).tolist() == order
    kept = F.count_select(scores, counts)
    assert [row.nonzero().flatten().tolist() for row in kept] == [
        sorted(each[: max(n, 0)]) for each, n in zip(order, asked, strict=True)
    ]
