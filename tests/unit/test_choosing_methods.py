"""Methods of others: what sees one image at a time, and what overrides one of ours, chooses as it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from trimkit.core import transfer
from trimkit.core.types import EncoderProfile, ImageTokens, TokenBatch
from trimkit.methods import ChoosingMethod, Method, get_method
from trimkit.methods.focus import Focus
from trimkit.methods.trim import Trim
from trimkit.pipeline.selecting import make_batch

LENGTHS = (9, 5, 9, 1)


class First(ChoosingMethod):
    """Ranks by order, and chooses the last ones; image by image."""

    name: ClassVar[str] = "first"
    summary: ClassVar[str] = ""

    def quality(self, image: TokenBatch) -> Tensor:
        assert image.features.shape[:2] == (1, *image.totals)
        return torch.arange(image.totals[0], 0, -1.0)

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        assert len(scores) == image.totals[0] > count
        return torch.arange(len(scores)).flip(0)[:count]


class LastOfFocus(Focus):
    """Focus, but for which patches."""

    name: ClassVar[str] = "last-of-focus"

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        return torch.arange(len(scores)).flip(0)[:count]


class OwnKeep(Method):
    """Keeps two tokens whatever the budget."""

    name: ClassVar[str] = "own-keep"
    summary: ClassVar[str] = ""

    def scores(self, batch: TokenBatch) -> Tensor:
        return batch.mask.float()

    def keep(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        return batch.mask & (torch.arange(batch.mask.shape[1]) < 2)


class OwnCounts(First):
    """One more than its budget."""

    name: ClassVar[str] = "own-counts"

    def counts(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        return super().counts(scores, batch) + 1


class Together(ChoosingMethod):
    """Chooses for several images at once."""

    name: ClassVar[str] = "together"
    summary: ClassVar[str] = ""

    def qualities(self, batch: TokenBatch) -> Tensor:
        return batch.features.sum(dim=2).abs()

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        return torch.arange(scores.shape[1]) < torch.tensor(counts).unsqueeze(1)


class Listing(Together):
    """Lists tokens from the last to the first, and the second again where there is room."""

    name: ClassVar[str] = "listing"

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        rows = [[*range(count - 1, 0, -1), 1] for count in counts]
        return torch.tensor([row + [scores.shape[1]] * (max(counts) - len(row)) for row in rows])


class InOrder(Listing):
    """The same order in the language model."""

    name: ClassVar[str] = "in-order"
    lists_in_order: ClassVar[bool] = True


def batch() -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    images = [ImageTokens(torch.randn(total, 6, generator=generator)) for total in LENGTHS]
    relevance = [torch.randn(total, generator=generator) for total in LENGTHS]
    return make_batch(images, relevance, list("abcd"), EncoderProfile(sign=1))


def kept(method: Method) -> list[list[int]]:
    return [each.indices.tolist() for each in method.select(batch())]


@pytest.mark.parametrize("cls", [First, LastOfFocus])
def test_a_method_that_sees_one_image_at_a_time(cls: type[ChoosingMethod]) -> None:
    method = cls(budget=3, aggregate="none")  # type: ignore[arg-type]  # a budget as users write it
    assert kept(method) == [[6, 7, 8], [2, 3, 4], [6, 7, 8], [0]]


def test_a_method_with_a_rule_of_its_own_is_counted() -> None:
    assert kept(OwnKeep(budget=4)) == [[0, 1], [0, 1], [0, 1], [0]]  # type: ignore[arg-type]
    assert kept(OwnCounts(budget=3)) == [[5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8], [0]]  # type: ignore[arg-type]


def test_a_method_that_sees_several() -> None:
    assert kept(Together(budget=3)) == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [0]]  # type: ignore[arg-type]


@pytest.mark.parametrize("together", [False, True])
def test_a_method_that_lists(monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    """Ascending with what is given twice; images that keep all stay as they are."""
    if together:
        monkeypatch.setattr(transfer, "ONE_BY_ONE", frozenset())
    assert kept(Listing(budget=3)) == [[1, 1, 2], [1, 1, 2], [1, 1, 2], [0]]  # type: ignore[arg-type]
    some = batch()
    marks = Listing(budget=3).keep(Listing(budget=3).scores(some), some)  # type: ignore[arg-type]
    assert [row.nonzero().flatten().tolist() for row in marks] == [[1, 2], [1, 2], [1, 2], [0]]
    given = InOrder(budget=0.5).select(batch())  # type: ignore[arg-type]
    assert [each.ordered.tolist() for each in given] == [[3, 2, 1, 1], [1, 1], [3, 2, 1, 1], [0]]
    assert [each.order is None for each in given] == [False, False, False, True]
    image = batch().part([0], 9)
    assert Listing().choose(image, torch.ones(9), 3).tolist() == [1, 1, 2]
    assert InOrder().choose(image, torch.ones(9), 3).tolist() == [2, 1, 1]


@pytest.mark.parametrize("name", ["focus", "cdpruner", "divprune", "uniform"])
def test_ours_can_be_asked_about_one_image(name: str) -> None:
    """``choose`` and ``quality`` of the methods that override ``choices`` and ``qualities``."""
    plain = {} if name == "uniform" else {"compare": "features"}
    method = get_method(name, budget=3, aggregate="none", **plain)
    assert isinstance(method, ChoosingMethod)
    image = batch().part([0], 9)
    scores = method.quality(image)
    assert method.choose(image, scores, 3).tolist() == method.select(image)[0].indices.tolist()


def test_what_overrides_neither_is_told_so() -> None:
    class Nothing(ChoosingMethod):
        name: ClassVar[str] = "nothing"
        summary: ClassVar[str] = ""

    image = batch().part([0], 9)
    with pytest.raises(NotImplementedError):
        Nothing().quality(image)
    with pytest.raises(NotImplementedError):
        Nothing().choose(image, torch.ones(9), 3)


def test_what_a_method_does_to_its_relevance_is_not_reported() -> None:
    """The batch's own stays as it is, and what is reported decides nothing."""

    class Careless(Trim):
        def scores(self, batch: TokenBatch) -> torch.Tensor:
            mine = self.signed_relevance(batch)
            assert mine is not None
            return mine.mul_(-1.0)

    class Reported(Trim):
        def signed_relevance(self, batch: TokenBatch) -> torch.Tensor | None:
            return torch.zeros_like(batch.mask, dtype=torch.float32)

    images = [ImageTokens(torch.randn(20, 8))]
    relevance = torch.arange(20.0)
    batch = make_batch(images, [relevance], ["what?"], EncoderProfile(sign=1))
    found = Careless(budget=5, aggregate="none").select(batch)[0]
    assert found.indices.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(found.relevance, relevance)
    assert Reported(budget=5, aggregate="none").select(batch)[0].indices.tolist() == [15, 16, 17, 18, 19]
