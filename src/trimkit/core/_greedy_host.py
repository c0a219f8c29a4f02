"""The greedy loops of one image in numpy: a step costs microseconds, and few rows of the Gram matrix are computed in vain."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["LEAST_NOVELTY", "cover", "largest_volume", "most_different", "relevant_and_new"]

LEAST_NOVELTY = 1e-4  # below it, what is called new is rounding, and worth alone decides
_LEAST_VOLUME = 1e-9  # of the largest: what is left beyond the rank of the kernel is rounding
_LEAST_LENGTH = 1e-12
_MOST_HELD = 1 << 22  # numbers, 32 MiB
_ROWS = 16  # computed at a time; measured: fewer make the product slow, more compute what nobody reads

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


_HELD = threading.local()


def _wide_copy(features: Tensor) -> Tensor:
    """A float64 copy of ``[N, D]`` features, which is good until the next one in this thread.

    All but large ones are in memory that is held: to be given fresh pages takes longer than to copy.
    """
    shape, size = features.shape, features.numel()
    if size > _MOST_HELD:
        return features.detach().to(torch.float64, copy=True)
    held = getattr(_HELD, "values", None)
    if type(held) is not Tensor or len(held) < size:
        with torch.inference_mode(False):
            held = _HELD.values = torch.empty(size, dtype=torch.float64, device="cpu")
    return held[:size].view(shape).copy_(features.detach())


class _Kernel:
    """Rows of ``weight_i weight_j <f_i, f_j>``, less what a Cholesky factor explains, and the factor, which grows by them.

    Rows of the Gram matrix are computed when asked for, with rows likely to be asked for next: the larger a product, the faster
    each of its rows. What the factor explains so far is taken off all of them in one product, too; what it explains since, when
    a row is used. A feature that is not finite is taken for 0.

    Args:
        features: ``[N, D]``.
        count: how many will be chosen. The first product has four fifths as many rows.
        quality: ``[N]``, scales the cosines on both sides; None leaves them.

    Attributes:
        diagonal: ``[N]``, the cosine of each feature with itself: 1, or 0 of a feature that is 0.
    """

    def __init__(self, features: Tensor, count: int, quality: Floats | None = None) -> None:
        self._features = _wide_copy(features)
        length = torch.linalg.vector_norm(self._features, dim=1).numpy()
        broken = ~np.isfinite(length)
        if broken.any():
            self._features.numpy()[broken], length[broken] = 0.0, 0.0
        scale: Floats = 1.0 / np.maximum(length, _LEAST_LENGTH)
        # Exactly 1: rounding must not rank equal tokens.
        self.diagonal: Floats = np.where(length >= _LEAST_LENGTH, 1.0, (length * scale) ** 2)
        self._weight = scale if quality is None else scale * quality
        self._missing = np.ones(len(length), dtype=bool)
        self._rows: list[tuple[Floats, int]] = [(length, 0)] * len(length)  # and the turn that each was computed in
        self._next = max(_ROWS, count * 4 // 5)
        self._factor = torch.zeros(count, len(length), dtype=torch.float64)
        self._columns: Floats = self._factor.numpy()
        self._explained = torch.empty(len(length), dtype=torch.float64)

    def grow(self, turn: int, chosen: int, left: float, likely: Floats) -> Floats:
        """Row ``turn`` of the factor: what ``chosen`` explains of each token that none before it does.

        Args:
            turn: rows so far.
            chosen: the token of the row.
            left: its variance.
            likely: ``[N]``, the higher, the likelier a token is chosen soon.
        """
        if self._missing[chosen]:
            self._compute(turn, chosen, likely)
        residual, since = self._rows[chosen]
        row: Floats = self._columns[turn]
        if since < turn:
            # A product of torch's obeys torch.set_num_threads; numpy's would start threads of its own beside them.
            its = torch.from_numpy(self._columns[since:turn, chosen].copy())
            torch.mv(self._factor[since:turn].T, its, out=self._explained)
            np.subtract(residual, self._explained.numpy(), out=row)
            row *= 1.0 / math.sqrt(left)
        else:
            np.multiply(residual, 1.0 / math.sqrt(left), out=row)
        return row

    def _compute(self, turn: int, chosen: int, likely: Floats) -> None:
        """The row of ``chosen``, and those that are missing of the highest in ``likely``."""
        ranked = np.where(self._missing, likely, -np.inf)
        ranked[chosen] = np.inf
        some, self._next = min(self._next, len(ranked)), _ROWS
        wanted = np.argpartition(ranked, len(ranked) - some)[-some:]
        wanted = wanted[self._missing[wanted]]
        product = torch.mm(self._features.index_select(0, torch.from_numpy(wanted)), self._features.T)
        rows = product.numpy()
        rows *= self._weight
        rows *= self._weight[wanted, None]
        if turn:
            its = torch.from_numpy(self._columns[:turn, wanted])
            product.addmm_(its.T, self._factor[:turn], alpha=-1.0)
        self._missing[wanted] = False
        for place, values in zip(wanted.tolist(), rows, strict=True):
            self._rows[place] = values, turn


def relevant_and_new(worth: Floats, features: Tensor, count: int, relevant: int, redundancy: float) -> Indices:
    """``[count]`` int64 in the order of choice; see ``greedy.relevant_and_new``."""
    kernel = _Kernel(features, count)
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

    return _choose(best, kernel, kernel.diagonal.copy(), count, LEAST_NOVELTY**2)


def largest_volume(quality: Floats, features: Tensor, count: int) -> Indices:
    """``[count]`` int64 in the order of choice; see ``greedy.largest_volume``."""
    quality = quality.astype(np.float64)
    kernel = _Kernel(features, count, quality)
    gains, left = quality**2 * kernel.diagonal, quality.copy()
    floor = _LEAST_VOLUME * float(gains.max(initial=0.0))

    def best(turn: int, gains: Floats) -> tuple[int, Floats]:
        chosen = int(gains.argmax())
        if gains[chosen] <= floor:
            chosen = int(left.argmax())
        left[chosen] = -1.0
        return chosen, gains

    return _choose(best, kernel, gains, count, floor)


def _choose(
    best: Callable[[int, Floats], tuple[int, Floats]], kernel: _Kernel, variance: Floats, count: int, floor: float
) -> Indices:
    """What ``best`` chooses, turn by turn.

    ``variance`` is what the choices leave of each token, and changes; of one that is taken, -1 is left.
    """
    picked = np.empty(count, dtype=np.int64)
    buffer = np.empty(len(variance))
    for turn in range(count):
        chosen, likely = best(turn, variance)
        picked[turn] = chosen
        left = float(variance[chosen])
        if left > floor and turn + 1 < count:
            row = kernel.grow(turn, chosen, left, likely)
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
