"""The rivals against plain implementations of their papers, and small cases worked out by hand."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import trimkit
from trimkit import EncoderProfile, ImageTokens, get_method
from trimkit.core.greedy import largest_volume
from trimkit.core.types import Selection
from trimkit.methods._base import single
from trimkit.methods._grid import cells, centres
from trimkit.pipeline.selecting import make_batch, reduced_features

PROFILE = EncoderProfile(sign=-1)


def image(n: int = 30, width: int = 6, seed: int = 0, grid: tuple[int, int] | None = None) -> ImageTokens:
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(n, generator=generator)
    return ImageTokens(
        torch.randn(n, width, generator=generator),
        grid=grid,
        cls_attention=attention / attention.sum(),
        keys=torch.randn(n, width, generator=generator),
    )


def chosen(name: str, tokens: ImageTokens, relevance: Tensor | None = None, **options: Any) -> Selection:
    """What a method, with no aggregated token unless asked for, keeps of one image."""
    method = get_method(name, **{"aggregate": "none", **options})
    return method.select(make_batch([tokens], None if relevance is None else [relevance], ["q"], PROFILE))[0]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def test_one_image_of_a_batch_keeps_all_that_is_known_of_it() -> None:
    batch = make_batch([image(4), image(6, seed=1)], [torch.arange(4.0), torch.arange(6.0)], ["a", "b"], PROFILE)
    batch = dataclasses.replace(batch, attention=torch.rand(batch.mask.shape))
    alone = single(batch, 0)
    for field in dataclasses.fields(batch):
        before, after = getattr(batch, field.name), getattr(alone, field.name)
        if isinstance(before, Tensor):
            assert torch.equal(after, before[:1, :4]), field.name
        elif isinstance(before, tuple):
            assert after == before[:1], field.name
        else:
            assert after is before, field.name


# uniform and average pooling


@pytest.mark.parametrize("count", range(1, 36))
@pytest.mark.parametrize("grid", [(5, 7), (6, 6), None])
def test_cells_are_a_partition_of_the_right_number(count: int, grid: tuple[int, int] | None) -> None:
    total = 35 if grid is None else grid[0] * grid[1]
    cell, middle = cells(total, grid, count), centres(total, grid, count)
    sizes = torch.bincount(cell, minlength=count)
    assert len(sizes) == len(middle) == count
    assert int(sizes.min()) >= 1
    assert cell[middle].tolist() == list(range(count))  # each middle in its own cell
    assert middle.tolist() == sorted(set(middle.tolist()))
    assert int(sizes.max()) <= 4 * max(1, total // count)  # no cell takes it all


def test_a_quarter_of_a_square_grid_is_two_by_two_pooling() -> None:
    tokens = image(36, grid=(6, 6))
    selection = chosen("avg-pool", tokens, budget=9)
    pooled = torch.nn.functional.avg_pool2d(tokens.features.T.view(1, -1, 6, 6), 2)
    torch.testing.assert_close(reduced_features(tokens, selection), pooled.flatten(2)[0].T)
    assert selection.indices.tolist() == [0, 2, 4, 12, 14, 16, 24, 26, 28]
    assert chosen("uniform", tokens, budget=9).indices.tolist() == selection.indices.tolist()


def test_tokens_without_a_grid_are_taken_at_equal_steps() -> None:
    assert chosen("uniform", image(12), budget=4).indices.tolist() == [1, 4, 7, 10]
    assert chosen("uniform", image(12, grid=(5, 7)), budget=4).indices.tolist() == [1, 4, 7, 10]  # not its grid


def test_iqr_is_as_many_as_trim_keeps() -> None:
    relevance = torch.zeros(36)
    relevance[[3, 7, 30]] = torch.tensor([-9.0, -8.0, -9.5])
    counts = {
        name: len(chosen(name, image(36, grid=(6, 6)), relevance, budget="iqr").indices)
        for name in ("trim", "random", "uniform", "avg-pool")
    }
    assert set(counts.values()) == {3}
    with pytest.raises(trimkit.ConfigError, match="keeps as many patches as TRIM"):
        chosen("uniform", image(), budget="iqr")


# norms and attention


def test_norms_either_way() -> None:
    tokens = ImageTokens(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [6.0, 8.0]]))
    assert chosen("l2-norm", tokens, budget=2).indices.tolist() == [0, 3]
    assert chosen("l2-norm", tokens, budget=2, keep_norms="low").indices.tolist() == [1, 2]


def test_class_attention_is_what_ranks() -> None:
    tokens = image()
    assert tokens.cls_attention is not None
    expected = sorted(range(30), key=lambda i: -float(tokens.cls_attention[i]))[:5]  # type: ignore[index]
    assert chosen("cls-attention", tokens, budget=5).indices.tolist() == sorted(expected)
    for name in ("cls-attention", "prumerge", "visionzip", "scope"):
        with pytest.raises(trimkit.ConfigError, match=r"needs (cls_attention|keys)"):
            chosen(name, ImageTokens(torch.randn(9, 2)), budget=3)


# PruMerge


def test_prumerge_merges_the_nearest_by_key() -> None:
    """Four patches; 2 is the outlier. Its nearest keys are those of 0 and 3."""
    tokens = ImageTokens(
        features=torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0]]),
        cls_attention=torch.tensor([0.1, 0.1, 0.5, 0.3]),
        keys=torch.tensor([[1.0, 0.1], [-1.0, 0.0], [1.0, 0.0], [1.0, -0.2]]),
    )
    one = chosen("prumerge", tokens, budget=1, neighbors=2)
    assert one.indices.tolist() == [2]
    total = torch.tensor([1.0 + 0.1 * 1.0 + 0.3 * 2.0, 1.0])  # x_2 + a_0 x_0 + a_3 x_3
    torch.testing.assert_close(reduced_features(tokens, one)[0], total / 1.4)
    released = chosen("prumerge", tokens, budget=1, neighbors=2, merge="released")
    torch.testing.assert_close(reduced_features(tokens, released)[0], total)
    behind = chosen("prumerge", tokens, budget=2, neighbors=0, aggregate="weighted")
    expected = (0.1 * tokens.features[0] + 0.1 * tokens.features[1] + 0.3 * tokens.features[3]) / 0.5
    torch.testing.assert_close(reduced_features(tokens, behind), torch.stack([tokens.features[2], expected]))


def test_prumerge_is_a_plain_loop() -> None:
    tokens = image(40)
    attention, keys = tokens.cls_attention, tokens.keys
    assert attention is not None
    assert keys is not None
    selection = chosen("prumerge", tokens, budget=7, neighbors=5)
    got = reduced_features(tokens, selection)
    for row, i in enumerate(selection.indices.tolist()):
        others = sorted((j for j in range(40) if j != i), key=lambda j: -cosine(keys[i], keys[j]))[:5]
        total = tokens.features[i] + sum(attention[j] * tokens.features[j] for j in others)
        torch.testing.assert_close(got[row], total / (1 + sum(float(attention[j]) for j in others)))


def test_prumerge_counts_outliers_and_plus_adds_three_for_each() -> None:
    tokens = image(40)
    flat = torch.full((40,), 0.01) + 1e-4 * torch.arange(40)
    flat[[5, 20]] = 0.4
    tokens = ImageTokens(tokens.features, cls_attention=flat, keys=tokens.keys)
    assert chosen("prumerge", tokens).indices.tolist() == [5, 20]
    plus = chosen("prumerge-plus", tokens).indices.tolist()
    assert len(plus) == 8
    assert {5, 20} <= set(plus)
    gaps = [b - a for a, b in itertools.pairwise(i for i in plus if i not in (5, 20))]
    assert all(5 <= gap <= 8 for gap in gaps)  # six over the remaining 38
    fixed = chosen("prumerge-plus", tokens, budget=12).indices.tolist()
    assert len(fixed) == 12
    assert set(flat.topk(3).indices.tolist()) <= set(fixed)


# VisionZip


def test_visionzip_keeps_and_merges() -> None:
    """Six patches, two dominant (1, 4); of the others 0 and 3 start, 2 joins 0 and 5 joins 3 by their keys."""
    tokens = ImageTokens(
        features=torch.eye(6),
        cls_attention=torch.tensor([0.0, 0.5, 0.1, 0.0, 0.3, 0.1]),
        keys=torch.tensor([[1.0, 0.0], [9.0, 9.0], [0.9, 0.1], [0.0, 1.0], [9.0, 9.0], [0.1, 0.9]]),
    )
    selection = chosen("visionzip", tokens, budget=4, dominant=0.5)
    assert selection.indices.tolist() == [0, 1, 3, 4]
    got = reduced_features(tokens, selection)
    eye = torch.eye(6)
    torch.testing.assert_close(got, torch.stack([(eye[0] + eye[2]) / 2, eye[1], (eye[3] + eye[5]) / 2, eye[4]]))
    released = reduced_features(tokens, chosen("visionzip", tokens, budget=4, dominant=0.5, merge="released"))
    torch.testing.assert_close(released, torch.stack([eye[0] + eye[2], eye[1], eye[3] + eye[5], eye[4]]))


def test_visionzip_shares_tokens_out_as_the_paper() -> None:
    tokens = image(576)
    assert tokens.cls_attention is not None
    selection = chosen("visionzip", tokens)
    assert len(selection) == 64
    top = set(tokens.cls_attention.topk(54).indices.tolist())
    assert top <= set(selection.indices.tolist())
    mixing = selection.mixing
    assert mixing is not None
    whole = (mixing == 1.0).any(dim=1)
    assert int(whole.sum()) >= 54
    assert bool((mixing.sum(dim=0) > 0).all())  # every patch went somewhere


# greedy choices


def test_divprune_is_greedy_max_min() -> None:
    """Directions in the plane: 0 and 5 degrees, 90, 180 and 184. 90 is farthest from its nearest, then 0 or 184."""
    angles = torch.deg2rad(torch.tensor([0.0, 5.0, 90.0, 180.0, 184.0]))
    tokens = ImageTokens(
        torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [7.0], [2.0], [3.0], [1.0]])
    )
    assert chosen("divprune", tokens, budget=1).indices.tolist() == [2]
    assert chosen("divprune", tokens, budget=2).indices.tolist() == [2, 4]  # 94 degrees away
    assert chosen("divprune", tokens, budget=3).indices.tolist() == [0, 2, 4]  # 0 is 90 from 90, 176 from 184


@pytest.mark.parametrize("count", [1, 4, 9])
def test_divprune_is_a_plain_loop(count: int) -> None:
    tokens = image(25, seed=count)
    distance = [[1 - cosine(a, b) for b in tokens.features] for a in tokens.features]
    kept = [max(range(25), key=lambda i: min(distance[i][j] for j in range(25) if j != i))]
    while len(kept) < count:
        left = [i for i in range(25) if i not in kept]
        kept.append(max(left, key=lambda i: min(distance[i][j] for j in kept)))
    assert chosen("divprune", tokens, budget=count).indices.tolist() == sorted(kept)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_cdpruner_takes_the_largest_determinant_each_time(count: int) -> None:
    tokens, relevance = image(12, seed=count), torch.randn(12, generator=torch.Generator().manual_seed(count))
    signed = -relevance  # the profile's sign
    quality = (signed - signed.min() + 1e-6) / (signed.max() - signed.min())
    unit = torch.nn.functional.normalize(tokens.features, dim=-1).double()
    kernel = quality.double().unsqueeze(1) * (unit @ unit.T) * quality.double()
    kept: list[int] = []
    while len(kept) < count:
        left = [i for i in range(12) if i not in kept]
        kept.append(max(left, key=lambda i: float(torch.linalg.det(kernel[[*kept, i]][:, [*kept, i]]))))
    assert chosen("cdpruner", tokens, relevance, budget=count).indices.tolist() == sorted(kept)


def test_cdpruner_beyond_the_rank_goes_by_relevance() -> None:
    quality = torch.tensor([0.2, 0.9, 0.5, 0.7])
    assert largest_volume(quality[None], torch.ones(1, 4, 3), [4], [4]).tolist() == [
        [1, 3, 2, 0]
    ]  # all the same: one has volume
    tokens = ImageTokens(torch.ones(6, 2))
    relevance = torch.tensor([3.0, 1.0, 2.0, 0.0, 5.0, 4.0])
    assert chosen("cdpruner", tokens, relevance, budget=3).indices.tolist() == [1, 2, 3]  # sign -1: low is relevant


@pytest.mark.parametrize(("count", "alpha"), [(1, 1.0), (4, 1.0), (6, 0.0), (6, 2.0)])
def test_scope_is_greedy_saliency_times_gain(count: int, alpha: float) -> None:
    tokens = image(20, seed=count)
    attention = tokens.cls_attention
    assert attention is not None
    similar = [[cosine(a, b) for b in tokens.features] for a in tokens.features]
    kept: list[int] = []

    def coverage(those: list[int]) -> float:
        return sum(max([0.0] + [similar[i][j] for j in those]) for i in range(20))

    while len(kept) < count:
        left = [i for i in range(20) if i not in kept]
        kept.append(max(left, key=lambda i: float(attention[i]) ** alpha * (coverage([*kept, i]) - coverage(kept))))
    assert chosen("scope", tokens, budget=count, alpha=alpha).indices.tolist() == sorted(kept)


def test_dart_keeps_pivots_and_what_repeats_them_least() -> None:
    """Pivots are 0 and 4 (L1 norms 9 and 8); farthest from 0 is 5, then from 4, of what is left, 3."""
    tokens = ImageTokens(
        torch.tensor([[9.0, 0.0], [1.0, 0.1], [0.9, 0.5], [0.5, -1.0], [0.0, 8.0], [-1.0, -0.5], [0.1, 1.0]])
    )
    assert chosen("dart", tokens, budget=4, pivots=2).indices.tolist() == [0, 3, 4, 5]
    assert chosen("dart", tokens, budget=1).indices.tolist() == [0]
    assert chosen("dart", tokens, budget=5, pivots=2).indices.numel() == 5


@pytest.mark.parametrize("name", ["divprune", "cdpruner", "scope", "dart", "prumerge", "prumerge-plus", "visionzip"])
@pytest.mark.parametrize("fill", [0.0, float("nan")])
def test_features_that_say_nothing(name: str, fill: float) -> None:
    tokens = ImageTokens(
        torch.full((10, 3), fill), cls_attention=torch.full((10,), fill), keys=torch.full((10, 3), fill)
    )
    for budget in (1, 4, 9, "iqr", "top-p:0.5"):
        selection = chosen(name, tokens, torch.full((10,), fill), budget=budget)
        assert 1 <= len(selection) <= 10
        assert selection.indices.tolist() == sorted(set(selection.indices.tolist()))
        assert selection.mixing is None or bool(torch.isfinite(selection.mixing).all())


# TRIM's score variants


def test_trim_by_similarity_itself() -> None:
    relevance = torch.tensor([1.0, 2.0, 3.0, 4.0, -30.0])
    softmax = chosen("trim", image(5), relevance, budget=2)
    plain = chosen("trim", image(5), relevance, budget=2, score="similarity")
    assert plain.indices.tolist() == softmax.indices.tolist()  # a number kept: the same order
    assert plain.scores is not None
    assert plain.scores.tolist() == [3.0, 2.0, 1.0, 0.0, 34.0]
    wide = torch.cat([torch.linspace(0, 1, 30), torch.tensor([-20.0, 2.2])])
    assert chosen("trim", image(32), wide, score="similarity").indices.tolist() == [30]
    with pytest.raises(trimkit.ConfigError, match="scores by softmax"):
        get_method("trim-released", score="similarity")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("budget", ["iqr", 0.25, "top-p:0.5"])
@pytest.mark.parametrize("aggregate", ["none", "mean", "weighted"])
def test_the_ablation_grid_can_be_said_in_options(sign: int, normalize: bool, budget: Any, aggregate: str) -> None:
    options = {"sign": sign, "normalize": normalize, "budget": budget, "aggregate": aggregate}
    for score in ("softmax", "similarity"):
        selection = chosen("trim", image(36), torch.randn(36), score=score, **options)
        assert 1 <= len(selection) < 36
