"""Whether a promise still holds, watched question by question for as long as one likes."""

from __future__ import annotations

import math

from scipy.special import betaincc, betaln

from trimkit.calibration._bounds import check_promise

__all__ = ["DriftMonitor"]

_PRIOR = (1.0, 20.0)  # of the rate above the promised one: more weight on small excesses; any prior is valid
_STEPS = 60


class DriftMonitor:
    """Counts answers that were asked again with all tokens and changed; says when the promised risk is exceeded.

    Valid however often it is looked at: an e-process, the mixture of likelihood ratios over all rates above the promised one,
    exceeds 1 / (1 - confidence) with a chance of at most 1 - confidence while the true rate is at most the promised one
    (Ville's inequality; Robbins, Statistical methods related to the law of the iterated logarithm, 1970,
    https://doi.org/10.1214/aoms/1177696786; Howard, Ramdas, McAuliffe and Sekhon, Time-uniform, nonparametric, nonasymptotic
    confidence sequences, https://arxiv.org/abs/1810.08240).

    Args:
        risk: the promised share of changed answers, strictly between 0 and 1.
        confidence: of the alarm, strictly between 0 and 1.

    Raises:
        ConfigError: either is no such number.
    """

    def __init__(self, risk: float, confidence: float = 0.95) -> None:
        check_promise(risk, confidence)
        self.risk = risk
        self.confidence = confidence
        self.asked = 0
        self.changed = 0
        self._alarmed = False

    def update(self, changed: bool) -> bool:
        """One more question that was asked again; returns ``exceeded``."""
        self.asked += 1
        self.changed += bool(changed)
        self._alarmed = self._alarmed or self._log_evidence(self.risk) >= -math.log1p(-self.confidence)
        return self._alarmed

    @property
    def exceeded(self) -> bool:
        """Whether the promise was seen to be broken, now or before."""
        return self._alarmed

    @property
    def evidence(self) -> float:
        """Against the promise: 1 at the start; 1 / (1 - confidence) raises the alarm."""
        return math.exp(min(self._log_evidence(self.risk), 700.0))

    @property
    def lower(self) -> float:
        """The true rate is at least this, with the confidence at all times together; 0 to 1."""
        limit, low, high = -math.log1p(-self.confidence), 0.0, self.changed / max(self.asked, 1)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if middle > 0.0 and self._log_evidence(middle) >= limit else (low, middle)
        return low

    def _log_evidence(self, rate: float) -> float:
        """Log of the mean likelihood of all higher rates, by the prior, over the likelihood of ``rate``."""
        a, b = _PRIOR
        hits, misses = self.changed, self.asked - self.changed
        above, before = float(betaincc(a + hits, b + misses, rate)), float(betaincc(a, b, rate))
        if above == 0.0 or before == 0.0:
            return -math.inf  # too small for a float: nothing speaks against the promise
        weighed = betaln(a + hits, b + misses) + math.log(above) - betaln(a, b) - math.log(before)
        return float(weighed - hits * math.log(rate) - misses * math.log1p(-rate))
