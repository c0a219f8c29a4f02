"""The greedy loops: numpy's and the one that a GPU gets choose what the loops of version 0.1 chose, in the same order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.bench_choosing import greedy_map, pick
from trimkit.core import greedy, transfer
from trimkit.methods._choosing import cosines

CASES = range(18)
FORMS = ("numpy", "in step")


class Case:
    """Images of several lengths, some with patches that are equal, zero or not finite."""

    def __init__(self, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        images = 1 + number % 4
        self.totals = torch.randint(1, 70, (images,), generator=generator).tolist()
        if number % 3 == 0:
            self.totals = [max(self.totals)] * images
        self.counts = [total if number % 5 == 0 else max(1, int(0.4 * total)) for total in self.totals]
        width = (5, 12, 80)[number % 3]
        self.features = torch.randn(images, max(self.totals), width, generator=generator)
        self.worth = torch.rand(images, max(self.totals), generator=generator) + 1e-3
        self.features[0, 0] = (float("nan"), 0.0, 1.0, float("inf"))[number % 4]
        self.features[0, -1] = self.features[0, max(0, max(self.totals) - 2)]
        for row, total in enumerate(self.totals):
            self.features[row, total:] = 0.0
            self.worth[row, total:] = 0.0

    def each(self, choose: Callable[[int, int, int], Tensor]) -> list[list[int]]:
        """``choose(row, total, count)`` of every image."""
        return [
            choose(row, total, count).tolist()
            for row, (total, count) in enumerate(zip(self.totals, self.counts, strict=True))
        ]

    def found(self, picked: Tensor) -> list[list[int]]:
        return [row[:count].tolist() for row, count in zip(picked, self.counts, strict=True)]


@pytest.fixture(params=FORMS, autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in step":
        monkeypatch.setattr(transfer, "ONE_BY_ONE", frozenset())


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize("redundancy", [1.0, 0.5, 0.0])
def test_relevant_and_new(number: int, redundancy: float) -> None:
    case = Case(number)
    weighed = torch.tensor([count // 2 if number % 2 else count for count in case.counts])
    picked = greedy.relevant_and_new(case.worth, case.features, case.counts, case.totals, weighed, redundancy)
    assert case.found(picked) == case.each(
        lambda row, total, count: pick(
            case.worth[row, :total].double(),
            case.features[row, :total].double(),
            count,
            redundancy,
            int(weighed[row]),
        )
    )


@pytest.mark.parametrize("number", CASES)
def test_largest_volume(number: int) -> None:
    case = Case(number)
    picked = greedy.largest_volume(case.worth, case.features, case.counts, case.totals)
    assert case.found(picked) == case.each(
        lambda row, total, count: greedy_map(
            case.worth[row, :total], cosines(case.features[row, :total].double()), count
        )
    )


@pytest.mark.parametrize("number", CASES)
def test_most_different(number: int) -> None:
    case = Case(number)
    broken = ~case.features.isfinite().all(dim=2)
    distances = torch.zeros(*broken.shape, broken.shape[1])
    for row, total in enumerate(case.totals):
        distances[row, :total, :total] = 1.0 - cosines(case.features[row, :total])

    def farthest(row: int, total: int, count: int) -> Tensor:
        far, lost = distances[row, :total, :total], broken[row, :total]
        nearest = far.masked_fill(lost, torch.inf).fill_diagonal_(torch.inf).amin(dim=1).masked_fill(lost, -1.0)
        picked = torch.empty(count, dtype=torch.int64)
        for turn in range(count):
            picked[turn] = nearest.argmax()
            seen = far[picked[turn]].masked_fill(lost, -1.0)
            nearest = seen.clone() if turn == 0 else torch.minimum(nearest, seen)
            nearest[picked[: turn + 1]] = -torch.inf
        return picked

    given = distances.masked_fill(broken.unsqueeze(1), -1.0)
    once = given.diagonal_scatter(torch.full(broken.shape, -torch.inf), dim1=1, dim2=2)
    picked = greedy.most_different(once, case.counts, case.totals, broken)
    assert case.found(picked) == case.each(farthest)


@pytest.mark.parametrize("number", CASES)
def test_cover(number: int) -> None:
    case = Case(number)
    similar = torch.zeros(*case.worth.shape, case.worth.shape[1])
    for row, total in enumerate(case.totals):
        similar[row, :total, :total] = cosines(case.features[row, :total])

    def covering(row: int, total: int, count: int) -> Tensor:
        alike, saliency = similar[row, :total, :total].double(), case.worth[row, :total].double()
        covered, picked = torch.zeros(total, dtype=torch.float64), []
        for _ in range(count):
            gains = (alike - covered.unsqueeze(1)).clamp(min=0.0).sum(dim=0) * saliency
            gains[picked] = -1.0
            picked.append(int(gains.argmax()))
            covered = torch.maximum(covered, alike[picked[-1]])
        return torch.tensor(picked)

    picked = greedy.cover(case.worth, similar, case.counts, case.totals)
    assert case.found(picked) == case.each(covering)


def test_of_equal_patches_the_first_is_taken() -> None:
    """Rounding must not rank them: the features are equal in direction alone."""
    features = torch.randn(1, 1, 48).expand(1, 90, 48) * torch.linspace(0.1, 3.0, 90).view(1, 90, 1)
    for choose in (greedy.relevant_and_new, greedy.largest_volume):
        assert choose(torch.full((1, 90), 0.3), features, [4], [90]).tolist() == [[0, 1, 2, 3]]


def test_kept_leaves_out_what_an_image_does_not_choose() -> None:
    picked = torch.tensor([[2, 0, 4], [1, 4, 4]])  # four tokens: 4 is none
    assert greedy.kept(picked, 4).tolist() == [[True, False, True, False], [False, True, False, False]]


@pytest.mark.parametrize("number", range(4))
def test_a_batch_chooses_as_its_images_alone(number: int) -> None:
    case = Case(number)
    together = case.found(greedy.largest_volume(case.worth, case.features, case.counts, case.totals))
    for row, (total, count) in enumerate(zip(case.totals, case.counts, strict=True)):
        one = slice(row, row + 1)
        alone = greedy.largest_volume(case.worth[one, :total], case.features[one, :total], [count], [total])
        assert alone[0].tolist() == together[row]
