"""Views that an external scorer looks at: each once, those of one grid together on a GPU, one by one on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from trimkit.core import transfer
from trimkit.core.geometry import View, grid_view
from trimkit.scorers._looks import Looks


def looks(seen: list[int]) -> Looks:
    """Embeds a picture as its mean; ``seen`` gets how many come together."""

    def embed(pictures: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        seen.append(len(pictures))
        return torch.stack([picture.mean().expand(grid[0] * grid[1], 1) for picture in pictures])

    return Looks(lambda view: (view.pixels.shape[1] // 8, view.pixels.shape[2] // 8), embed)


def views() -> list[tuple[str, View]]:
    small, other, wide = torch.rand(3, 16, 16), torch.rand(3, 16, 16), torch.rand(3, 16, 32)
    return [("a", grid_view(small, 2, 2)), ("b", grid_view(other, 2, 2)), ("c", grid_view(wide, 2, 4))]


def test_a_view_that_comes_twice_is_looked_at_once_and_held() -> None:
    seen: list[int] = []
    look, given = looks(seen), views()
    found = look([*given, given[0]])
    assert seen == [1, 1, 1]
    assert torch.equal(found[0], found[3])
    assert [float(each[0, 0]) for each in found[:3]] == [float(view.pixels.mean()) for _, view in given]
    look(given)
    assert seen == [1, 1, 1]
    look.clear()
    look(given[:1])
    assert seen == [1, 1, 1, 1]


def test_without_a_key_nothing_is_held() -> None:
    seen: list[int] = []
    look, (_, view) = looks(seen), views()[0]
    look([("", view), ("", view)])
    look([("", view)])
    assert sum(seen) == 3


def test_those_of_one_grid_go_together_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ONE_BY_ONE", frozenset())
    seen: list[int] = []
    look, given = looks(seen), views()
    found = look([*given, given[1]])
    assert seen == [2, 1]
    assert torch.equal(found[1], found[3])
