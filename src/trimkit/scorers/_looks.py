"""What an encoder sees of parts of pictures: computed together where that is faster, and held for the next question."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

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
        keys = _keys(views)
        found = {key: held for key in keys if key is not None and (held := self._held.get(key)) is not None}
        seen: dict[int, Tensor] = {}
        for places in self._groups(views, [i for i, key in enumerate(keys) if key is None or key not in found]):
            pictures = [views[i][1].pixels for i in places]
            seen.update(zip(places, self._embed(pictures, self._grid(views[places[0]][1])), strict=True))
        for i, patches in seen.items():
            if keys[i] is not None:
                self._held.put(keys[i], patches.clone() if len(seen) > 1 else patches)  # a row would hold all of them
        return [seen[i] if i in seen else found[key] for i, key in enumerate(keys)]

    def _groups(self, views: Sequence[tuple[str, View]], places: list[int]) -> list[list[int]]:
        """Those of one grid together; one by one on the CPU, where no rounding is to depend on the others."""
        groups: dict[Hashable, list[int]] = {}
        for i in places:
            alone = one_by_one(views[i][1].pixels.device)
            groups.setdefault(i if alone else self._grid(views[i][1]), []).append(i)
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
