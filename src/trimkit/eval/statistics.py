"""Paired bootstrap over questions: every arm answered the same ones, so that what is hard about a question cancels out.

A resample draws as many questions as there are, with replacement, and all arms are looked at on the same draw. Intervals are
the 2.5 % and 97.5 % points of the resamples (Efron's percentile interval). Everything follows from the seed. P values of a
difference are exact and need no resample, so that they stay small enough for hundreds of comparisons at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from trimkit.errors import ConfigError

__all__ = ["PairedBootstrap", "holm"]

Floats = npt.NDArray[np.float64]

_OUTSIDE = 0.05  # of the resamples lie outside an interval
_CHUNK = 500  # resamples at a time: what is drawn for 2,000 questions then takes 8 MB


class PairedBootstrap:
    """Shares of right answers of several arms on the same questions.

    Args:
        hits: for every arm one entry a question, all of the same length, at least one.
        resamples: how many.
        seed: of the draw.

    Raises:
        ConfigError: no arm, no question, or arms that did not answer the same questions.
    """

    def __init__(self, hits: Mapping[str, Sequence[bool | int]], *, resamples: int = 4000, seed: int = 0) -> None:
        lengths = {len(answers) for answers in hits.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise ConfigError("arms can only be compared on the same questions: give each one entry a question")
        self._rows = {arm: i for i, arm in enumerate(hits)}
        table = np.array([[float(hit) for hit in answers] for answers in hits.values()])
        self._table = table
        self._means: Floats = table.mean(axis=1)
        self._drawn = _resampled(table, resamples, seed)

    def accuracy(self, arm: str) -> float:
        """The share of right answers."""
        return float(self._means[self._rows[arm]])

    def interval(self, arm: str) -> list[float]:
        """The 95 % interval of ``accuracy``, as ``[low, high]``."""
        return _interval(self._drawn[self._rows[arm]])

    def difference(self, arm: str, other: str) -> dict[str, Any]:
        """``arm`` minus ``other``: ``value``, ``ci95``, ``significant`` where the interval does not hold 0, and ``p``.

        That is of McNemar's exact test (1947, https://doi.org/10.1007/BF02295996): of the questions that one of both alone gets
        right, each is as likely the one's as the other's where nothing differs.
        """
        found = self.contrast({arm: 1.0, other: -1.0} if arm != other else {arm: 0.0})
        change = self._table[self._rows[arm]] - self._table[self._rows[other]]
        won, lost = int((change > 0).sum()), int((change < 0).sum())
        return found | {"p": min(1.0, 2.0 * float(bdtr(min(won, lost), won + lost, 0.5)))}

    def contrast(self, weights: Mapping[str, float]) -> dict[str, Any]:
        """A weighted sum of accuracies with its interval, as ``difference`` gives it; its ``p`` is twice the share of resamples
        on 0 or its far side (one more of each counted, so that it is never 0).
        """
        value = sum(weight * self._means[self._rows[arm]] for arm, weight in weights.items())
        drawn = sum(weight * self._drawn[self._rows[arm]] for arm, weight in weights.items())
        low, high = _interval(np.asarray(drawn))
        changes = np.round(drawn, 12)
        beyond = 1 + min(int((changes <= 0).sum()), int((changes >= 0).sum()))
        p = min(1.0, 2 * beyond / (1 + changes.size))
        return {"value": float(value), "ci95": [low, high], "significant": bool(low > 0.0 or high < 0.0), "p": p}

    def ratio(self, arm: str, full: str) -> dict[str, Any]:
        """``arm`` as a share of ``full``: ``value``, None where the full model is never right; ``ci95``, None where it is right
        so seldom that it is never right in more resamples than lie outside an interval.
        """
        row, whole = self._rows[arm], self._rows[full]
        if self._means[whole] == 0:
            return {"value": None, "ci95": None}
        known = self._drawn[whole] > 0
        value = float(self._means[row] / self._means[whole])
        if known.mean() < 1 - _OUTSIDE:
            return {"value": value, "ci95": None}
        return {"value": value, "ci95": _interval(self._drawn[row][known] / self._drawn[whole][known])}


def holm(values: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm 1979): at most 5 % of families have any below 0.05 where nothing differs."""
    adjusted, most = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        most = max(most, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = most
    return adjusted


def _resampled(table: Floats, resamples: int, seed: int) -> Floats:
    """``[A, R]`` means of ``[A, n]`` over R draws of n questions."""
    generator, n = np.random.default_rng(seed), table.shape[1]
    parts = []
    for start in range(0, resamples, _CHUNK):
        times = generator.multinomial(n, np.full(n, 1.0 / n), size=min(_CHUNK, resamples - start))
        parts.append(table @ times.T.astype(np.float64) / n)
    return np.concatenate(parts, axis=1)


def _interval(drawn: Floats) -> list[float]:
    low, high = np.quantile(drawn, [_OUTSIDE / 2, 1 - _OUTSIDE / 2])
    # Sums of products leave 1e-17 where arms agree on every question: that is no difference.
    return [float(np.round(low, 12)), float(np.round(high, 12))]
