"""What an encoder sees of parts of pictures: computed together where that is faster, and held for the next question."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from torch import Tensor

from trimkit.core.content import content_key, digested
from trimkit.core.geometry import View
from trimkit.core.recent import Recent
from trimkit.core.transfer import fetch, one_by_one

__all__ = ["Looks"]

_HELD = 64


class Looks:
    """Patch embeddings of views.

    Args:
        grid: rows and columns of patches for a view.
        embed: ``[V, rows * columns, P]`` for pictures ``[3, H, W]`` that have one grid, and that grid.
    """

    def __init__(
        self,
        grid: Callable[[View], tuple[int, int]],
        embed: Callable[[Sequence[Tensor], tuple[int, int]], Tensor],
    ) -> None:
        self._grid, self._embed = grid, embed
        self._held: Recent[Hashable, Tensor] = Recent(_HELD)

    def clear(self) -> None:
        """Forget all of them."""
        self._held.clear()

    def __call__(self, views: Sequence[tuple[str, View]]) -> list[Tensor]:
        """``[rows * columns, P]`` of each view; with it is given its image's key, empty where nothing is to be held."""
        # What is not to be held has its place for a key; a view that comes twice is computed once.
        keys = [i if key is None else key for i, key in enumerate(_keys(views))]
        given = dict(zip(keys, views, strict=True))
        found = {key: held for key in given if (held := self._held.get(key)) is not None}
        for group in self._groups({key: view for key, (_, view) in given.items() if key not in found}):
            done = self._embed([given[key][1].pixels for key in group], self._grid(given[group[0]][1]))
            for key, patches in zip(group, done, strict=True):
                found[key] = patches.clone() if len(group) > 1 else patches  # a row would hold all of them
                if not isinstance(key, int):
                    self._held.put(key, found[key])
        return [found[key] for key in keys]

    def _groups(self, views: Mapping[Hashable, View]) -> list[list[Hashable]]:
        """Those of one grid together; one by one on the CPU, where no rounding is to depend on the others."""
        groups: dict[Hashable, list[Hashable]] = {}
        for key, view in views.items():
            groups.setdefault(key if one_by_one(view.pixels.device) else self._grid(view), []).append(key)
        return list(groups.values())


def _keys(views: Sequence[tuple[str, View]]) -> list[Hashable | None]:
    """By image and by the view's own content: another model may undo another normalization of the same encoder input."""
    sums = {i: each for i, (key, view) in enumerate(views) if key and (each := digested(view.pixels)) is not None}
    known = dict(zip(sums, fetch(list(sums.values())), strict=True))
    keys: list[Hashable | None] = []
    for i, (key, view) in enumerate(views):
        own = content_key({"pixels": known.get(i, view.pixels)}, ["pixels"] if i in known else ()) if key else ""
        keys.append((key, own) if key else None)
    return keys
