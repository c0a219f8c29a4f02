"""The rivals against plain implementations of their papers, and small cases worked out by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import trimkit
from tests.rivals.vectors import names_in
from trimkit import EncoderProfile, ImageTokens, get_method
from trimkit.core.greedy import largest_volume
from trimkit.core.types import Selection
from trimkit.methods._grid import cells, centres
from trimkit.methods._images import single
from trimkit.pipeline.selecting import make_batch, reduced_features

PROFILE = EncoderProfile(sign=-1)


def image(n: int = 30, width: int = 6, seed: int = 0, grid: tuple[int, int] | None = None) -> ImageTokens:
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(n, generator=generator)
    return signalled(
        ImageTokens(
            torch.randn(n, width, generator=generator),
            grid=grid,
            cls_attention=attention / attention.sum(),
            keys=torch.randn(n, width, generator=generator),
        )
    )


def signalled(tokens: ImageTokens) -> ImageTokens:
    """The same attention and keys under every name, tokens that the projector leaves alone, and a class token of nines."""
    own = {
        "cls_attention_wide@-1": tokens.cls_attention,
        "keys@-1": tokens.keys,
        "keys_mean": tokens.keys,
        "projected": tokens.features,
        "cls_state": torch.full_like(tokens.features[0], 9.0),
    }
    return dataclasses.replace(tokens, signals={name: each for name, each in own.items() if each is not None})


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
        elif isinstance(before, dict):
            assert set(after) == set(before)
            assert all(after[name] == before[name][:1] for name in before)
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
    tokens = signalled(
        ImageTokens(
            features=torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0]]),
            cls_attention=torch.tensor([0.1, 0.1, 0.5, 0.3]),
            keys=torch.tensor([[1.0, 0.1], [-1.0, 0.0], [1.0, 0.0], [1.0, -0.2]]),
        )
    )
    one = chosen("prumerge", tokens, budget=1, neighbors=2, merge="mean")
    assert one.indices.tolist() == [2]
    total = torch.tensor([1.0 + 0.1 * 1.0 + 0.3 * 2.0, 1.0])  # x_2 + a_0 x_0 + a_3 x_3
    torch.testing.assert_close(reduced_features(tokens, one)[0], total / 1.4)
    released = chosen("prumerge", tokens, budget=1, neighbors=2)
    torch.testing.assert_close(reduced_features(tokens, released)[0], total)
    features = chosen("prumerge", dataclasses.replace(tokens, signals={}), budget=1, neighbors=2, attention="features")
    torch.testing.assert_close(reduced_features(tokens, features)[0], total)
    rest = 0.1 * tokens.features[0] + 0.1 * tokens.features[1] + 0.3 * tokens.features[3]
    for merge, expected in (("released", rest), ("mean", rest / 0.5)):
        behind = chosen("prumerge", tokens, budget=2, neighbors=0, aggregate="weighted", merge=merge)
        torch.testing.assert_close(reduced_features(tokens, behind), torch.stack([tokens.features[2], expected]))


def test_prumerge_gives_patches_by_falling_attention() -> None:
    tokens = signalled(
        ImageTokens(torch.eye(5), cls_attention=torch.tensor([0.1, 0.3, 0.0, 0.4, 0.2]), keys=torch.eye(5))
    )
    selection = chosen("prumerge", tokens, budget=4, neighbors=0, aggregate="weighted")
    assert selection.indices.tolist() == [1, 3, 4]
    assert selection.ordered.tolist() == [3, 1, 4]
    expected = torch.stack([*torch.eye(5)[[3, 1, 4]], torch.tensor([0.1, 0, 0, 0, 0])])
    torch.testing.assert_close(reduced_features(tokens, selection), expected)


@pytest.mark.parametrize(("fraction", "total", "kept"), [(0.2, 30, 7), (0.13, 30, 4), (0.01, 30, 2), (0.9, 3, 3)])
def test_prumerge_reads_a_fraction_as_patches_with_one_on_top(fraction: float, total: int, kept: int) -> None:
    options = {"budget": fraction, "aggregate": "weighted"}
    assert len(chosen("prumerge", image(total), **options)) == get_method("prumerge", **options).tokens(total) == kept


def test_prumerge_is_a_plain_loop() -> None:
    tokens = image(40)
    attention, keys = tokens.cls_attention, tokens.keys
    assert attention is not None
    assert keys is not None
    for merge in ("released", "mean"):
        selection = chosen("prumerge", tokens, budget=7, neighbors=5, merge=merge)
        got = reduced_features(tokens, selection)
        for row, i in enumerate(selection.ordered.tolist()):
            others = sorted((j for j in range(40) if j != i), key=lambda j: -cosine(keys[i], keys[j]))[:5]
            total = tokens.features[i] + sum(attention[j] * tokens.features[j] for j in others)
            weights = 1 + sum(float(attention[j]) for j in others) if merge == "mean" else 1
            torch.testing.assert_close(got[row], total / weights)


def outlying(total: int, places: list[int]) -> ImageTokens:
    tokens, flat = image(total), torch.full((total,), 0.01) + 1e-4 * torch.arange(total)
    flat[places] = 0.4 + 0.01 * torch.arange(len(places))
    return signalled(ImageTokens(tokens.features, cls_attention=flat, keys=tokens.keys))


def test_prumerge_counts_outliers_and_plus_adds_samples_at_equal_steps() -> None:
    tokens = outlying(40, [5, 20])
    assert chosen("prumerge", tokens).indices.tolist() == [5, 20]
    plus = chosen("prumerge-plus", tokens)
    assert plus.ordered.tolist() == [20, 5, 0, 6, 12, 18, 24, 30, 36]  # int(int(1 / 0.05) / 3) = 6, from 0 to 38
    assert chosen("prumerge-plus", outlying(40, [6, 20, 30])).ordered.tolist() == [
        30,
        20,
        6,
        *range(0, 6, 4),
        *range(8, 20, 4),
        24,
        28,
        32,
        36,
    ]
    fixed = chosen("prumerge-plus", tokens, budget=12).indices.tolist()
    assert len(fixed) == 12
    assert {5, 20, 39} <= set(fixed)  # a quarter by attention


def test_prumerge_plus_samples_for_training_may_be_given_twice() -> None:
    """An eighth of 40: five by attention, and 4, 12, 20, 28, 36; 20 and 36 are both."""
    tokens = outlying(40, [5, 20, 36, 37, 38])
    selection = chosen("prumerge-plus", tokens, budget=0.125, samples="training", aggregate="weighted")
    assert selection.ordered.tolist() == [38, 37, 36, 20, 5, 4, 12, 20, 28, 36]
    assert selection.indices.tolist() == [4, 5, 12, 20, 20, 28, 36, 36, 37, 38]
    assert len(reduced_features(tokens, selection)) == len(selection) == 11
    assert get_method("prumerge-plus", budget=0.125, samples="training").tokens(40) == 11
    with pytest.raises(trimkit.ConfigError, match="at steps of a fraction"):
        get_method("prumerge-plus", budget=64, samples="training")


# VisionZip


def test_visionzip_keeps_and_merges() -> None:
    """Six patches, two dominant (1, 4); of the others 0 and 3 start, 2 joins 0 and 5 joins 3 by their keys."""
    tokens = signalled(
        ImageTokens(
            features=torch.eye(6),
            cls_attention=torch.tensor([0.0, 0.5, 0.1, 0.0, 0.3, 0.1]),
            keys=torch.tensor([[1.0, 0.0], [9.0, 9.0], [0.9, 0.1], [0.0, 1.0], [9.0, 9.0], [0.1, 0.9]]),
        )
    )
    eye, own = torch.eye(6), torch.full((6,), 9.0)
    starts = [eye[0] + eye[2], eye[3] + eye[5]]
    selection = chosen("visionzip", tokens, budget=5, dominant=0.6)  # three of five, one of them the class token
    assert selection.indices.tolist() == [0, 1, 3, 4]
    assert selection.ordered.tolist() == [1, 4, 0, 3]
    assert selection.class_token
    torch.testing.assert_close(reduced_features(tokens, selection), torch.stack([own, eye[1], eye[4], *starts]))
    mean = chosen("visionzip", tokens, budget=4, dominant=0.5, class_token=False, merge="mean")
    assert not mean.class_token
    expected = torch.stack([eye[1], eye[4], *(each / 2 for each in starts)])
    torch.testing.assert_close(reduced_features(tokens, mean), expected)


def test_visionzip_shares_tokens_out_as_the_paper() -> None:
    tokens = image(576)
    assert tokens.cls_attention is not None
    selection = chosen("visionzip", tokens)
    assert len(selection) == 64
    top = sorted(tokens.cls_attention.topk(53).indices.tolist())  # the class token is the 54th
    assert selection.ordered[:53].tolist() == top
    mixing = selection.mixing
    assert mixing is not None
    assert int(((mixing > 0).sum(dim=1) == 1).sum()) >= 53
    assert bool((mixing.sum(dim=0) > 0).all())  # every patch went somewhere


# greedy choices


def test_divprune_is_greedy_max_min() -> None:
    """Directions in the plane: 0 and 5 degrees, 90, 180 and 184. 90 is farthest from its nearest, then 0 or 184."""
    angles = torch.deg2rad(torch.tensor([0.0, 5.0, 90.0, 180.0, 184.0]))
    lengths = torch.tensor([[1.0], [7.0], [2.0], [3.0], [1.0]])
    tokens = signalled(ImageTokens(torch.stack([angles.cos(), angles.sin()], dim=1) * lengths))
    assert chosen("divprune", tokens, budget=1).indices.tolist() == [2]
    assert chosen("divprune", tokens, budget=2).indices.tolist() == [2, 4]  # 94 degrees away
    assert chosen("divprune", tokens, budget=3).indices.tolist() == [0, 2, 4]  # 0 is 90 from 90, 176 from 184


def test_divprune_compares_behind_the_projector_and_rounds_a_fraction() -> None:
    tokens = image(25)
    behind = dataclasses.replace(tokens, signals={"projected": tokens.features.flip(0)})
    indices = chosen("divprune", behind, budget=6).indices
    assert (24 - indices).flip(0).tolist() == chosen("divprune", behind, budget=6, compare="features").indices.tolist()
    assert [get_method("divprune", budget=r).tokens(25) for r in (0.18, 0.1, 0.14, 0.01)] == [4, 2, 4, 1]
    assert len(chosen("divprune", tokens, budget=0.14)) == 4
    with pytest.raises(trimkit.ConfigError, match="compare='features'"):
        chosen("divprune", ImageTokens(tokens.features), budget=6)


def test_divprune_gives_a_token_again_where_only_copies_are_left() -> None:
    """Three directions, each several times: five of eight, then six that differ."""
    eye = torch.eye(3)[[0, 1, 1, 2, 2, 2, 0, 0]]
    tokens = signalled(ImageTokens(eye))
    again = chosen("divprune", tokens, budget=5)
    assert len(again) == 5
    assert len(set(again.indices.tolist())) == 3
    assert len(eye[again.indices].unique(dim=0)) == 3
    assert len(reduced_features(tokens, again)) == 5
    assert len(set(chosen("divprune", tokens, budget=5, repeats=False).indices.tolist())) == 5
    assert chosen("divprune", signalled(ImageTokens(torch.ones(6, 2))), budget=3).indices.unique().numel() == 1


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
    tokens = signalled(ImageTokens(torch.ones(6, 2)))
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
    assert chosen("dart-tower", tokens, budget=4, pivots=2).indices.tolist() == [0, 3, 4, 5]
    assert chosen("dart-tower", tokens, budget=1).indices.tolist() == [0]
    assert chosen("dart-tower", tokens, budget=5, pivots=2).indices.numel() == 5


@pytest.mark.parametrize(
    "name", ["divprune", "cdpruner", "scope", "dart-tower", "prumerge", "prumerge-plus", "visionzip"]
)
@pytest.mark.parametrize("fill", [0.0, float("nan")])
def test_features_that_say_nothing(name: str, fill: float) -> None:
    tokens = signalled(
        ImageTokens(torch.full((10, 3), fill), cls_attention=torch.full((10,), fill), keys=torch.full((10, 3), fill))
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


def test_a_directory_of_vectors_that_checks_nothing_is_no_pass(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    for content in ({}, {"a.safetensors": {"method": "trim", "parameters": {}, "inputs": {}, "outputs": {}}}):
        manifest.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match="vectors; without outputs"):
            names_in(tmp_path)
    entry = {"method": "trim", "parameters": {}, "inputs": {}, "outputs": {"indices": {}}}
    manifest.write_text(json.dumps({"a.safetensors": entry}), encoding="utf-8")
    assert names_in(tmp_path) == ["a.safetensors"]
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(ValueError, match="not in the manifest"):
        names_in(tmp_path)
