"""The greedy loops of one image in numpy: a step costs microseconds, and few rows of the Gram matrix are computed in vain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["LEAST_NOVELTY", "cover", "largest_volume", "most_different", "relevant_and_new"]

LEAST_NOVELTY = 1e-4  # below it, what is called new is rounding, and worth alone decides
_LEAST_VOLUME = 1e-9  # of the largest: what is left beyond the rank of the kernel is rounding
_LEAST_LENGTH = 1e-12
_ROWS = 24  # computed at a time; measured: fewer make the product slow, more compute what nobody reads

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class _CosineRows:
    """Rows of the cosine matrix of ``[N, D]`` features, computed when asked for, with those likely to be asked for next.

    A feature that is not finite, or 0, is similar to nothing, itself included.
    """

    def __init__(self, features: Tensor) -> None:
        # A product of torch's obeys torch.set_num_threads; numpy's would start threads of its own beside them.
        self._features = features.detach().to(torch.float64, copy=True)
        wide = self._features.numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            length = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        broken = ~np.isfinite(length)
        if broken.any():
            wide[broken], length[broken] = 0.0, 0.0
        self._scale: Floats = 1.0 / np.maximum(length, _LEAST_LENGTH)
        # Exactly 1: rounding must not rank equal tokens.
        self.diagonal: Floats = np.where(length >= _LEAST_LENGTH, 1.0, (length * self._scale) ** 2)
        self._place: Indices = np.full(len(wide), -1)
        self._rows: list[Floats] = []

    def __call__(self, index: int, likely: Floats) -> Floats:
        """Row ``index``; of those missing, the highest in ``likely`` ``[N]`` are computed with it."""
        if self._place[index] < 0:
            missing = np.where(self._place < 0, likely, -np.inf)
            missing[index] = np.inf
            some = min(_ROWS, len(missing))
            wanted = np.argpartition(missing, len(missing) - some)[-some:]
            wanted = wanted[self._place[wanted] < 0]
            rows = torch.mm(self._features[torch.from_numpy(wanted)], self._features.T).numpy()
            rows *= self._scale[wanted, None]
            rows *= self._scale
            self._place[wanted] = np.arange(len(self._rows), len(self._rows) + len(wanted))
            self._rows += list(rows)
        return self._rows[self._place[index]]


def relevant_and_new(worth: Floats, features: Tensor, count: int, relevant: int, redundancy: float) -> Indices:
    """``[count]`` int64 in the order of choice; see ``greedy.relevant_and_new``."""
    rows = _CosineRows(features)
    worth, new, gains = worth.astype(np.float64), np.empty(len(worth)), np.empty(len(worth))

    def best(turn: int, novelty: Floats) -> tuple[int, Floats]:
        np.maximum(novelty, LEAST_NOVELTY, out=new)
        if turn < relevant:
            np.multiply(worth, new if redundancy == 1.0 else new**redundancy, out=gains)
            found = gains
        else:
            found = new if new.max() > LEAST_NOVELTY else worth
        chosen = int(found.argmax())
        worth[chosen] = -1.0  # its novelty is 0 from now on
        return chosen, found

    return _grow(best, rows, rows.diagonal.copy(), None, count, LEAST_NOVELTY**2)


def largest_volume(quality: Floats, features: Tensor, count: int) -> Indices:
    """``[count]`` int64 in the order of choice; see ``greedy.largest_volume``."""
    rows = _CosineRows(features)
    quality = quality.astype(np.float64)
    gains, left = quality**2 * rows.diagonal, quality.copy()
    floor = _LEAST_VOLUME * float(gains.max(initial=0.0))

    def best(turn: int, gains: Floats) -> tuple[int, Floats]:
        volume = np.where((left < 0.0) | (gains <= floor), -1.0, gains)
        chosen = int(volume.argmax())
        if volume[chosen] <= 0.0:
            chosen = int(left.argmax())
        left[chosen] = -1.0
        return chosen, volume

    return _grow(best, rows, gains, quality, count, floor)


def _grow(
    best: Callable[[int, Floats], tuple[int, Floats]],
    rows: _CosineRows,
    variance: Floats,
    quality: Floats | None,
    count: int,
    floor: float,
) -> Indices:
    """Grow a Cholesky factor by the row of what ``best`` chooses; ``variance`` is what is left of each token, and changes."""
    factor = np.zeros((count, len(variance)))
    picked = np.empty(count, dtype=np.int64)
    squared, projected = np.empty(len(variance)), np.empty(len(variance))
    for turn in range(count):
        chosen, likely = best(turn, variance)
        picked[turn] = chosen
        left = float(variance[chosen])
        if left <= floor or turn + 1 == count:
            continue
        row = factor[turn]
        similar = rows(chosen, likely)
        if quality is None:
            row[:] = similar
        else:
            np.multiply(similar, quality[chosen], out=row)
            row *= quality
        # Not a BLAS product: it would start threads for so few numbers.
        np.einsum("t,tn->n", factor[:turn, chosen], factor[:turn], out=projected)
        row -= projected
        row /= np.sqrt(left)
        np.multiply(row, row, out=squared)
        variance -= squared
    return picked


def most_different(distances: NDArray[np.float32], count: int, broken: NDArray[np.bool_]) -> Indices:
    """``[count]`` int64 in the order of choice; see ``greedy.most_different``."""
    picked = np.empty(count, dtype=np.int64)
    nearest = distances.copy()
    np.fill_diagonal(nearest, np.inf)
    nearest[:, broken] = np.inf
    nearest = nearest.min(axis=1)
    nearest[broken] = -1.0
    taken = np.zeros(len(distances), dtype=bool)
    for turn in range(count):
        chosen = picked[turn] = nearest.argmax()
        seen = np.where(broken, np.float32(-1.0), distances[chosen])
        taken[chosen] = True
        nearest = seen if turn == 0 else np.minimum(nearest, seen)
        nearest[taken] = -np.inf
    return picked


def cover(saliency: Floats, similarity: Floats, count: int) -> Indices:
    """``[count]`` int64 in the order of choice; a step looks again only at tokens that the last choice covers better."""
    saliency, similarity = saliency.astype(np.float64), similarity.astype(np.float64)
    picked = np.empty(count, dtype=np.int64)
    covered = np.zeros(len(saliency))
    gains = np.maximum(similarity, 0.0).sum(axis=0)
    left = saliency.copy()
    taken = np.zeros(len(saliency), dtype=bool)
    for turn in range(count):
        worth = np.maximum(gains, 0.0) * left
        worth[taken] = -1.0
        chosen = picked[turn] = worth.argmax()
        taken[chosen] = True
        column = similarity[:, chosen]
        better = np.flatnonzero(column > covered)
        rows, before, after = similarity[better], covered[better, None], column[better, None]
        gains -= (np.maximum(rows - before, 0.0) - np.maximum(rows - after, 0.0)).sum(axis=0)
        np.maximum(covered, column, out=covered)
    return picked
