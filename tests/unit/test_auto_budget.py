"""The budget ``auto``: each signal says what it is meant to say, and more of the dial is never fewer tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from trimkit.core.auto_budget import auto_counts, detail, flatness, named_share, needs, novelty
from trimkit.core.types import EncoderProfile, TokenBatch
from trimkit.methods import get_method

SIDE = 12


def units(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features, dim=-1)


def batch_of(
    features: torch.Tensor, relevance: torch.Tensor, question: str | None = "What is on the table?"
) -> TokenBatch:
    images, total = relevance.shape
    return TokenBatch(
        features=features,
        mask=torch.ones(images, total, dtype=torch.bool),
        relevance=relevance,
        profile=EncoderProfile(sign=1),
        grids=((SIDE, SIDE),) * images,
        keys=tuple(map(str, range(images))),
        queries=(question,) * images,
    )


def random_batch(images: int = 3, question: str | None = "What is on the table?") -> TokenBatch:
    draw = torch.Generator().manual_seed(1)
    shape = (images, SIDE * SIDE)
    return batch_of(torch.randn(*shape, 16, generator=draw), 3 * torch.randn(*shape, generator=draw), question)


def test_one_peak_is_less_flat_than_noise_and_equal_scores_are_flat() -> None:
    peak = torch.zeros(100)
    peak[3] = 1.0
    assert float(flatness(peak)) == pytest.approx(0.01)
    assert float(flatness(torch.ones(100))) == pytest.approx(1.0)
    assert 0.01 < float(flatness(torch.rand(100, generator=torch.Generator().manual_seed(0)))) < 1.0
    assert float(flatness(torch.zeros(100))) == pytest.approx(1.0)  # nothing is more relevant than anything else
    assert float(flatness(torch.full((100,), torch.nan))) == pytest.approx(1.0)


def test_two_kinds_of_patches_are_one_direction_and_noise_is_many() -> None:
    two = units(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(50, 1))
    noise = units(torch.randn(100, 64, generator=torch.Generator().manual_seed(0)))
    assert float(novelty(two)) == pytest.approx(0.01, rel=1e-3)
    assert float(novelty(noise)) > 0.2
    assert float(novelty(units(torch.ones(100, 8)))) == pytest.approx(0.0, abs=1e-6)  # one flat color


def test_fine_patterns_have_more_detail_than_areas() -> None:
    rows = torch.arange(SIDE).unsqueeze(1).expand(SIDE, SIDE)
    columns = rows.T
    halves = torch.eye(2)[(columns >= SIDE // 2).long().flatten()]
    board = torch.eye(2)[((rows + columns) % 2).flatten()]
    assert float(detail(halves, (SIDE, SIDE))) < 0.15
    assert float(detail(board, (SIDE, SIDE))) == 1.0
    assert float(detail(units(torch.ones(9, 4)), (3, 3))) == 1.0
    assert float(detail(torch.eye(1), (1, 1))) == 1.0


def test_what_is_named_is_counted_once_and_up_to_a_limit() -> None:
    assert named_share(None) == named_share("Is it?") == 0.25
    assert named_share("Where is the blue ball?") == pytest.approx(4 / 7)
    assert named_share("ball Ball BALL") == named_share("ball")
    assert named_share(" ".join("abcd" + chr(97 + i) for i in range(26))) == pytest.approx(13 / 16)


def test_more_of_the_dial_is_never_fewer_tokens() -> None:
    batch = random_batch()
    scores = get_method("trim").scores(batch)
    counts = torch.stack([auto_counts(scores, batch, dial) for dial in (1e-9, 0.05, 0.3, 0.5, 1.0, 4.0, 1e12)])
    assert bool((counts.diff(dim=0) >= 0).all())
    assert counts[0].tolist() == [1, 1, 1]
    assert counts[-1].tolist() == [SIDE * SIDE] * 3
    assert auto_counts(scores, batch, 1e-9, 7, None).tolist() == [7, 7, 7]
    assert auto_counts(scores, batch, 1e9, 7, 20).tolist() == [20, 20, 20]


def test_a_vague_question_and_a_busy_picture_need_more() -> None:
    batch = random_batch(1)
    trim = get_method("trim")
    clear = replace(batch, relevance=batch.relevance.clone())  # type: ignore[union-attr]
    clear.relevance[0, 5] = 40.0  # type: ignore[index]
    calm = replace(batch, features=torch.ones_like(batch.features) + 0.01 * batch.features)
    listing = replace(batch, queries=("Where are the lamp, chair, table, window, carpet and shelf?",))

    def need(each: TokenBatch) -> float:
        return float(needs(trim.scores(each), each))

    assert need(clear) < need(batch) < need(listing)
    assert need(calm) <= need(batch)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_numbers_that_are_none_do_no_harm(broken: float) -> None:
    batch = random_batch(1)
    features = batch.features.clone()
    features[0, 3] = broken
    relevance = torch.full_like(batch.relevance, broken)  # type: ignore[arg-type]
    kept = len(get_method("trim", budget="auto").select(replace(batch, features=features, relevance=relevance))[0])
    assert 1 <= kept <= SIDE * SIDE


def test_an_image_without_tokens_needs_none() -> None:
    batch = replace(random_batch(1), features=torch.zeros(1, 0, 4), mask=torch.ones(1, 0, dtype=torch.bool))
    assert auto_counts(torch.zeros(1, 0), batch, 1.0).tolist() == [0]
