"""The greedy loops of one image in numpy: a step costs microseconds, and few rows of the Gram matrix are computed in vain."""

from __future__ import annotations

import math
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


class _Products:
    """Dot products of ``[N, D]`` features, computed row by row when asked for, with rows likely to be asked for next.

    A feature that is not finite is taken for 0. The first product has half as many rows as will be chosen: the larger a
    product, the faster each of its rows.

    Args:
        features: ``[N, D]``.
        count: how many will be chosen.

    Attributes:
        scale: ``[N]``, what makes cosines of the products, on both sides.
        diagonal: ``[N]``, the cosine of each feature with itself: 1, or 0 of a feature that is 0.
    """

    def __init__(self, features: Tensor, count: int) -> None:
        # In torch as in _grow.
        self._features = features.detach().to(torch.float64, copy=True)
        length = torch.linalg.vector_norm(self._features, dim=1).numpy()
        broken = ~np.isfinite(length)
        if broken.any():
            self._features.numpy()[broken], length[broken] = 0.0, 0.0
        self.scale: Floats = 1.0 / np.maximum(length, _LEAST_LENGTH)
        # Exactly 1: rounding must not rank equal tokens.
        self.diagonal: Floats = np.where(length >= _LEAST_LENGTH, 1.0, (length * self.scale) ** 2)
        self._missing = np.ones(len(length), dtype=bool)
        self._rows: list[Floats] = [length] * len(length)
        self._next = max(_ROWS, count // 2)

    def row(self, index: int, likely: Floats) -> Floats:
        """Row ``index``; of those missing, the highest in ``likely`` ``[N]`` are computed with it."""
        if self._missing[index]:
            ranked = np.where(self._missing, likely, -np.inf)
            ranked[index] = np.inf
            some, self._next = min(self._next, len(ranked)), _ROWS
            wanted = np.argpartition(ranked, len(ranked) - some)[-some:]
            wanted = wanted[self._missing[wanted]]
            rows = torch.mm(self._features.index_select(0, torch.from_numpy(wanted)), self._features.T).numpy()
            self._missing[wanted] = False
            for place, values in zip(wanted.tolist(), rows, strict=True):
                self._rows[place] = values
        return self._rows[index]


def relevant_and_new(worth: Floats, features: Tensor, count: int, relevant: int, redundancy: float) -> Indices:
    """``[count]`` int64 in the order of choice; see ``greedy.relevant_and_new``."""
    products = _Products(features, count)
    worth, new, gains = worth.astype(np.float64), np.empty(len(worth)), np.empty(len(worth))

    def best(turn: int, novelty: Floats) -> tuple[int, Floats]:
        np.maximum(novelty, LEAST_NOVELTY, out=new)
        found = new
        if turn < relevant:
            found = np.multiply(worth, new if redundancy == 1.0 else new**redundancy, out=gains)
        chosen = int(found.argmax())
        if turn >= relevant and new[chosen] <= LEAST_NOVELTY:
            found, chosen = worth, int(worth.argmax())
        worth[chosen] = -1.0  # its novelty is 0 from now on
        return chosen, found

    return _grow(best, products, products.diagonal.copy(), products.scale, count, LEAST_NOVELTY**2)


def largest_volume(quality: Floats, features: Tensor, count: int) -> Indices:
    """``[count]`` int64 in the order of choice; see ``greedy.largest_volume``."""
    products = _Products(features, count)
    quality = quality.astype(np.float64)
    gains, left = quality**2 * products.diagonal, quality.copy()
    floor = _LEAST_VOLUME * float(gains.max(initial=0.0))

    def best(turn: int, gains: Floats) -> tuple[int, Floats]:
        chosen = int(gains.argmax())
        if gains[chosen] <= floor:
            chosen = int(left.argmax())
        left[chosen] = -1.0
        return chosen, gains

    return _grow(best, products, gains, products.scale * quality, count, floor)


def _grow(
    best: Callable[[int, Floats], tuple[int, Floats]],
    products: _Products,
    variance: Floats,
    weight: Floats,
    count: int,
    floor: float,
) -> Indices:
    """Grow a Cholesky factor of ``weight_i weight_j products_ij`` by the row of what ``best`` chooses.

    ``variance`` is what the choices leave of each token, and changes; of one that is taken, -1 is left.
    """
    rows = torch.zeros(count, len(variance), dtype=torch.float64)
    factor = rows.numpy()
    picked = np.empty(count, dtype=np.int64)
    explained = torch.empty(len(variance), dtype=torch.float64)
    buffer = explained.numpy()
    for turn in range(count):
        chosen, likely = best(turn, variance)
        picked[turn] = chosen
        left = float(variance[chosen])
        if left > floor and turn + 1 < count:
            row, length = factor[turn], math.sqrt(left)
            np.multiply(products.row(chosen, likely), weight, out=row)
            row *= weight[chosen] / length
            # A product of torch's obeys torch.set_num_threads; numpy's would start threads of its own beside them.
            torch.mv(rows[:turn].T, torch.from_numpy(factor[:turn, chosen] / length), out=explained)
            row -= buffer
            np.multiply(row, row, out=buffer)
            variance -= buffer
        variance[chosen] = -1.0
    return picked


def most_different(distances: NDArray[np.float32], count: int, broken: NDArray[np.bool_]) -> Indices:
    """``[count]`` int64 in the order of choice; see ``greedy.most_different``."""
    picked = np.empty(count, dtype=np.int64)
    nearest = distances.copy()
    np.fill_diagonal(nearest, np.inf)
    nearest[:, broken] = np.inf
    nearest = nearest.min(axis=1)
    nearest[broken] = -1.0
    for turn in range(count):
        chosen = picked[turn] = nearest.argmax()
        nearest = distances[chosen].copy() if turn == 0 else np.minimum(nearest, distances[chosen])
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
