"""Finite-sample statements about a risk: what a sample of losses proves, whatever distribution it was drawn from.

A loss lies in 0..1, one for every exchangeable unit (here a picture); the risk is its expectation over pictures like them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import beta, binom

from trimkit.errors import ConfigError

__all__ = ["check_promise", "fixed_sequence", "needed", "p_value", "provable_rate", "upper_bound"]

Values = np.ndarray[Any, np.dtype[np.float64]]

_STEPS = 60  # halvings of an interval of length 1: below the rounding of float64


def check_promise(risk: float, confidence: float) -> None:
    """Refuse a promise that says nothing.

    Raises:
        ConfigError: ``risk`` or ``confidence`` is no number strictly between 0 and 1.
    """
    for name, value in (("risk", risk), ("confidence", confidence)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < 1.0:
            raise ConfigError(f"{name} {value!r} is not strictly between 0 and 1: give for example 0.02 and 0.95")


def needed(risk: float, confidence: float) -> int:
    """The least number of losses with which the promise can be proved: so many zeros in a row prove it, one fewer do not.

    149 for a risk of 2 % with 95 % confidence.

    Raises:
        ConfigError: see ``check_promise``.
    """
    check_promise(risk, confidence)
    return math.ceil(math.log1p(-confidence) / math.log1p(-risk) - 1e-12)


def p_value(losses: Values, risk: float) -> float:
    """Of the hypothesis that the risk is above ``risk``: small where the losses speak against it; valid for every sample size.

    Losses of 0 and 1 alone: the exact binomial tail. Others in 0..1: the Hoeffding-Bentkus inequality, the smaller of the
    Chernoff-Hoeffding bound and e times the binomial tail (Bates, Angelopoulos, Lei, Malik and Jordan, Distribution-Free,
    Risk-Controlling Prediction Sets, 2021, https://arxiv.org/abs/2101.02703, Theorem 3 and Proposition 1 of Angelopoulos,
    Bates, Candès, Jordan and Lei, Learn then Test, https://arxiv.org/abs/2110.01052).

    Args:
        losses: ``[n]``, each in 0..1.
        risk: strictly between 0 and 1.

    Returns:
        0 to 1; 1 where there are no losses.

    Raises:
        ConfigError: a loss that is not a number in 0..1.
    """
    _check_losses(losses)
    n = len(losses)
    if n == 0:
        return 1.0
    if np.isin(losses, (0.0, 1.0)).all():
        return float(binom.cdf(int(losses.sum()), n, risk))
    mean = float(losses.mean())
    if mean >= risk:
        return 1.0
    hoeffding = math.exp(-n * _divergence(mean, risk))
    bentkus = math.e * float(binom.cdf(math.ceil(n * mean - 1e-9), n, risk))
    return min(hoeffding, bentkus, 1.0)


def upper_bound(losses: Values, confidence: float) -> float:
    """Upper confidence bound of the risk: the true one lies above it with a chance of at most 1 - confidence.

    Losses of 0 and 1 alone: Clopper and Pearson's one-sided limit. Others: the root of ``p_value``.

    Returns:
        0 to 1; 1 where there are no losses.
    """
    _check_losses(losses)
    n = len(losses)
    if n == 0:
        return 1.0
    if np.isin(losses, (0.0, 1.0)).all():
        ones = int(losses.sum())
        return 1.0 if ones == n else float(beta.ppf(confidence, ones + 1, n - ones))
    low, high = float(losses.mean()), 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if p_value(losses, middle) <= 1.0 - confidence else (middle, high)
    return high


def provable_rate(n: int, risk: float, confidence: float, power: float = 0.8) -> float:
    """The true rate at which ``n`` losses of 0 and 1 prove the promise with a chance of ``power``; 0 where they are too few."""
    most = int(binom.ppf(1.0 - confidence, n, risk))  # ones; the quantile itself may be one too many
    if binom.cdf(most, n, risk) > 1.0 - confidence:
        most -= 1
    return float(beta.ppf(1.0 - power, most + 1, n - most)) if most >= 0 else 0.0


def fixed_sequence(p_values: Sequence[float], level: float) -> int:
    """How many hypotheses of an ordered list are rejected: each at the full ``level``, up to the first that is not.

    The chance that one of the rejected is true is at most ``level``, if the order does not depend on the data of the p-values
    (Learn then Test, https://arxiv.org/abs/2110.01052, Proposition 2, fixed-sequence testing).
    """
    for number, value in enumerate(p_values):
        if not value <= level:  # NaN proves nothing
            return number
    return len(p_values)


def _divergence(mean: float, risk: float) -> float:
    """Kullback-Leibler divergence in nats of one Bernoulli mean from another."""
    first = mean * math.log(mean / risk) if mean > 0.0 else 0.0
    rest = (1.0 - mean) * math.log((1.0 - mean) / (1.0 - risk)) if mean < 1.0 else 0.0
    return first + rest


def _check_losses(losses: Values) -> None:
    if not ((losses >= 0.0) & (losses <= 1.0)).all():  # NaN is in no interval
        raise ConfigError(
            "a loss is not a number from 0 to 1: the model's scores are not finite, or the measure is no loss"
        )
