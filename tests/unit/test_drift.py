"""The drift alarm: silent while the promise holds, however long one looks; loud when it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta

from trimkit.calibration import DriftMonitor
from trimkit.errors import ConfigError


def run(rate: float, risk: float, length: int, seed: int) -> DriftMonitor:
    monitor = DriftMonitor(risk)
    for changed in np.random.default_rng(seed).random(length) < rate:
        if monitor.update(bool(changed)):
            break
    return monitor


def test_evidence_is_the_mixture_by_integration() -> None:
    monitor = DriftMonitor(0.05)
    for changed in [True, False, False, True, *[False] * 20]:
        monitor.update(changed)

    def ratio(rate: float) -> float:
        return float(beta.pdf(rate, 1, 20) / beta.sf(0.05, 1, 20) * (rate / 0.05) ** 2 * ((1 - rate) / 0.95) ** 22)

    assert monitor.evidence == pytest.approx(quad(ratio, 0.05, 1)[0], rel=1e-6)


def test_it_is_silent_while_the_promise_holds() -> None:
    """Looked at after every one of 400 questions, in 150 runs at just the promised rate."""
    alarms = sum(run(0.05, 0.05, 400, seed).exceeded for seed in range(150))
    assert alarms <= 0.05 * 150 + 2 * (150 * 0.05 * 0.95) ** 0.5


def test_it_is_loud_when_it_is_broken() -> None:
    for seed in range(5):
        monitor = run(0.25, 0.02, 1000, seed)
        assert monitor.exceeded
        assert monitor.asked < 200
        assert monitor.risk < monitor.lower < 1.0


def test_an_alarm_stays() -> None:
    monitor = DriftMonitor(0.02)
    for _ in range(20):
        monitor.update(True)
    for _ in range(5000):
        monitor.update(False)
    assert monitor.exceeded


def test_at_the_start_nothing_is_known() -> None:
    monitor = DriftMonitor(0.02)
    assert (monitor.exceeded, monitor.lower) == (False, 0.0)
    assert monitor.evidence == pytest.approx(1.0)


@pytest.mark.parametrize(("risk", "confidence"), [(0.0, 0.95), (1.5, 0.95), (0.1, 1.0), (None, 0.9)])
def test_what_is_no_promise(risk: Any, confidence: Any) -> None:
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        DriftMonitor(risk, confidence)


@pytest.mark.parametrize("risk", [0.02, 0.05, 0.2, 0.5, 0.999])
def test_a_million_questions_without_a_change_are_no_evidence(risk: float) -> None:
    """What is too small for a float must not be read as something."""
    monitor = DriftMonitor(risk)
    for asked in (1_000, 3_112, 14_000, 36_000, 1_000_000):
        monitor.asked = asked - 1
        assert not monitor.update(False)
        assert monitor.evidence < 1.0
        assert monitor.lower == 0.0
