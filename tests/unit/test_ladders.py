"""Which thresholds are tried: from asking everything again to asking nothing, the cheapest for every price of a loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from trimkit import get_method
from trimkit.calibration import Outcomes, Way
from trimkit.calibration._ladders import Ladder, _expected, _improved, _rung, ladders
from trimkit.core.confidence import Measure

SIGNAL: tuple[Measure, int] = ("margin", 1)
FULL = 576.0


def outcomes(budget: int, loss: Any, sure: Any, said: Any = None) -> Outcomes:
    loss, n = np.asarray(loss, dtype=np.float64), len(loss)
    numbers = np.arange(n, dtype=np.float64)
    kept, full = np.full(n, float(budget)), np.full(n, FULL)
    told = {} if said is None else {1: np.asarray(said, dtype=np.float64)}
    return Outcomes(Way(get_method("trim", budget=budget)), numbers, loss, kept, full, {SIGNAL: np.asarray(sure)}, told)


def drawn(seed: int, n: int = 400) -> list[Outcomes]:
    """A few answers change, more with few tokens; the less sure, the more."""
    draws = np.random.default_rng(seed)
    hard = draws.random(n)
    pool = []
    for budget, rate in ((8, 0.3), (32, 0.1), (121, 0.03)):
        loss = (hard < rate).astype(np.float64)
        sure = 1.0 / (1.0 + np.exp(-draws.normal(size=n) - 2.0 + 3.0 * loss))
        pool.append(outcomes(budget, loss, sure, np.where(loss > 0, budget, 1)))
    return pool


def ranks(ladder: Ladder, rung: int, outcomes: Outcomes) -> list[int]:
    """How many answers are as sure as each rule's threshold of a rung."""
    return [int((outcomes.confidence[SIGNAL] >= rule.thresholds[rung]).sum()) for rule in ladder.rules]


def test_a_sequence_goes_from_all_to_none_in_small_steps() -> None:
    pool = drawn(0)
    ladder = next(each for each in ladders(pool) if len(each.expected) == 2)
    assert ladder.rules[0].thresholds == (math.inf, math.inf)
    assert ladder.rules[-1].thresholds == (-math.inf, -math.inf)
    assert len(set(ladder.rules)) == len(ladder.rules)
    for rung in (0, 1):
        steps = np.abs(np.diff(ranks(ladder, rung, pool[rung])))
        assert steps.max() <= 0.02 * len(pool[0].loss) + 1


def test_one_rung_has_the_cheapest_threshold_at_every_price() -> None:
    (only, *_) = drawn(1)
    part = _rung(only, SIGNAL, None)
    for price in (20_000.0, 5_000.0, 1_000.0):
        ((limit, _),) = _improved([part], only.full, price, [(math.inf, math.inf)])

        def cost(threshold: float, price: float = price) -> float:
            return float(np.where(part.sure >= threshold, price * part.loss, FULL).mean())

        assert cost(limit) == pytest.approx(min(map(cost, [math.inf, *part.sure])))
        assert 0 < (part.sure >= limit).sum() < len(part.sure)


def test_a_threshold_is_set_for_those_that_reach_its_rung() -> None:
    """All that reach the second rung lose there: none stays, though most others would."""
    loss = np.repeat([0.0, 1.0], [300, 100])
    sure = np.repeat([0.9, 0.1], [300, 100])
    first, second = outcomes(8, loss, sure), outcomes(32, loss, np.full(400, 0.5))
    parts = [_rung(first, SIGNAL, None), _rung(second, SIGNAL, first)]
    limits = _improved(parts, first.full, 50_000.0, [(0.5, 0.5), (math.inf, math.inf)])
    assert limits[0][0] == 0.9
    assert limits[1] == (math.inf, math.inf)


def test_equally_sure_answers_stay_or_go_together() -> None:
    pool = drawn(2)
    rounded = outcomes(8, pool[0].loss, np.round(pool[0].confidence[SIGNAL], 1))
    for rule in next(ladders([rounded])).rules:
        assert rule.threshold in {math.inf, -math.inf, *rounded.confidence[SIGNAL]}


@pytest.mark.parametrize("loss", [np.zeros(60), np.ones(60), np.full(60, 0.3)])
@pytest.mark.parametrize("sure", [np.full(60, 0.5), np.full(60, -math.inf), np.linspace(0.0, 1.0, 60)])
def test_what_tells_nothing_is_no_fault(loss: Any, sure: Any) -> None:
    for ladder in ladders([outcomes(8, loss, sure, np.ones(60)), outcomes(32, loss, sure, np.ones(60))]):
        assert ladder.rules[0].threshold == math.inf
        assert ladder.rules[-1].threshold == -math.inf


def test_agreement_is_believed_where_agreeing_answers_lose_less() -> None:
    draws = np.random.default_rng(3)
    agrees, sure = draws.random(1000) < 0.5, draws.random(1000)
    loss = (draws.random(1000) < np.where(agrees, 0.02, 0.3)).astype(np.float64)
    expected, believed = _expected(sure, agrees, loss)
    assert believed
    assert expected[agrees].mean() == pytest.approx(loss[agrees].mean(), abs=0.02)
    assert expected[~agrees].mean() == pytest.approx(loss[~agrees].mean(), abs=0.02)
    assert not _expected(sure, ~agrees, loss)[1]


def test_expected_losses_are_as_high_as_those_that_were_seen() -> None:
    for each in drawn(4, 2000):
        part = _rung(each, SIGNAL, None)
        assert part.loss.mean() == pytest.approx(each.loss.mean(), abs=1e-3)
        surest = part.order[:1000]
        assert part.loss[surest].mean() == pytest.approx(each.loss[surest].mean(), abs=0.02)
