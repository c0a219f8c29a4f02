"""A promise about the risk: the bounds, the choice, and that over many draws it is kept as often as it says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest

from trimkit.attach.confidence_watch import ConfidenceWatch
from trimkit.calibration import _promise
from trimkit.calibration._bounds import fixed_sequence, needed, p_value, provable_rate, upper_bound
from trimkit.calibration._ladders import ladders, means
from trimkit.calibration._notes import Pair
from trimkit.calibration._outcomes import Outcomes, Way, confidence_seen, is_right, said_number
from trimkit.calibration._promise import Promise, Step, prove, split_pictures
from trimkit.calibration._risk_report import config_of, notes_of
from trimkit.calibration._rules import Rule
from trimkit.config import read_config, save_config
from trimkit.core.confidence import Fallback, fallback_of
from trimkit.errors import ConfigError, InputError
from trimkit.methods import get_method

SIGNAL: Any = ("margin", 1)
DRAWS = 100  # benchmarks.promise_coverage makes 200, of more kinds of losses
LIMIT = 0.05 + 2 * math.sqrt(0.05 * 0.95 / DRAWS)
COUNTS = (8, 32, 121)


def test_needed_is_the_least_number_that_can_prove_it() -> None:
    assert needed(0.02, 0.95) == 149
    for risk in (0.01, 0.02, 0.05, 0.3):
        for confidence in (0.5, 0.9, 0.95, 0.99):
            n = needed(risk, confidence)
            assert p_value(np.zeros(n), risk) <= 1 - confidence + 1e-12
            assert p_value(np.zeros(n - 1), risk) > 1 - confidence or n == 1


@pytest.mark.parametrize("ones", [0, 1, 3, 17, 50])
def test_bounds_of_yes_and_no_are_exact(ones: int) -> None:
    losses = np.array([1.0] * ones + [0.0] * (50 - ones))
    exact = binomtest(ones, 50, alternative="less").proportion_ci(0.95, method="exact").high
    assert upper_bound(losses, 0.95) == pytest.approx(exact)
    if ones < 50:
        assert p_value(losses, upper_bound(losses, 0.95)) == pytest.approx(0.05)


def test_bounds_of_losses_between_lie_above_the_mean_and_shrink() -> None:
    draws = np.random.default_rng(0)
    few, many = draws.beta(1, 30, 200), draws.beta(1, 30, 4000)
    for losses in (few, many):
        bound = upper_bound(losses, 0.95)
        assert losses.mean() < bound
        assert p_value(losses, bound) == pytest.approx(0.05, rel=1e-3)
    assert upper_bound(many, 0.95) - many.mean() < upper_bound(few, 0.95) - few.mean()


@pytest.mark.parametrize("wrong", [np.array([0.0, math.nan]), np.array([1.5]), np.array([-0.1])])
def test_what_is_no_loss_proves_nothing(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="loss"):
        p_value(wrong, 0.1)
    with pytest.raises(ConfigError, match="loss"):
        upper_bound(wrong, 0.9)


def test_no_losses_prove_nothing() -> None:
    assert p_value(np.array([]), 0.02) == upper_bound(np.array([]), 0.95) == 1.0


def test_a_sequence_stops_at_the_first_that_is_not_proved() -> None:
    assert fixed_sequence([0.0, 0.05, 0.051, 0.0], 0.05) == 2
    assert fixed_sequence([math.nan, 0.0], 0.05) == 0
    assert fixed_sequence([], 0.05) == 0


@pytest.mark.parametrize(("risk", "confidence"), [(0.0, 0.95), (1.0, 0.95), (0.02, 1.0), (math.nan, 0.9), (True, 0.9)])
def test_a_promise_that_says_nothing(risk: Any, confidence: Any) -> None:
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        needed(risk, confidence)


def test_too_few_pictures_are_counted() -> None:
    with pytest.raises(InputError, match="needs 149 to prove it"):
        split_pictures(156, 0.02, 0.95, 0)
    tuned, proving = split_pictures(157, 0.02, 0.95, 0)
    assert (len(tuned), len(proving)) == (8, 149)
    tuned, proving = split_pictures(600, 0.02, 0.95, 0)
    assert (len(tuned), len(proving)) == (200, 400)
    assert set(tuned) | set(proving) == set(range(600))


def simulated(draws: Any, n: int, rates: Any = (0.3, 0.1, 0.01), informative: float = 2.0) -> list[Outcomes]:
    """Questions whose answers change now and then, more often with few tokens, and a signal that knows something of it."""
    found = []
    hard = draws.random(n)  # the same questions are hard at every budget
    for count, rate in zip(COUNTS, rates, strict=True):
        changed = (hard < rate).astype(np.float64)
        sure = draws.normal(size=n) - informative * changed
        way = Way(get_method("trim", budget=count))
        kept, full = np.full(n, float(count)), np.full(n, 576.0)
        found.append(Outcomes(way, np.arange(n, dtype=np.float64), changed, kept, full, {SIGNAL: sure}))
    return found


def realised(draws: Any, risk: float, n: int = 450, **options: Any) -> float:
    """The true risk of what is chosen from one draw of pictures: its mean loss on very many others."""
    pool = simulated(draws, n, **options)
    tuned, proving = split_pictures(n, risk, 0.95, int(draws.integers(1 << 30)))
    promise = prove([each.of(tuned) for each in pool], of_way(pool, proving), risk, 0.95)
    fresh = simulated(draws, 20_000, **options)
    return float(promise.chosen.rule.read(of_way(fresh), fresh[0]).loss.mean())


def of_way(pool: list[Outcomes], pictures: Any = None) -> Any:
    """Gives the outcomes of a way, as if they were measured when they are asked for."""
    return {each.way: each if pictures is None else each.of(pictures) for each in pool}.__getitem__


def broken_share(seed: int, risk: float, **options: Any) -> float:
    draws = np.random.default_rng(seed)
    return float(np.mean([realised(draws, risk, **options) > risk for _ in range(DRAWS)]))


@pytest.mark.parametrize(("risk", "informative"), [(0.01, 2.0), (0.02, 2.0), (0.05, 2.0), (0.05, 0.0)])
def test_the_promise_is_kept_as_often_as_it_says(risk: float, informative: float) -> None:
    assert broken_share(1, risk, informative=informative) <= LIMIT


def test_a_promise_without_its_bound_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: what is seen on the pictures, taken for the truth, is not."""
    monkeypatch.setattr(_promise, "p_value", lambda losses, risk: float(losses.mean() > risk))
    assert broken_share(1, 0.05) > LIMIT


def test_a_signal_that_knows_saves_tokens() -> None:
    draws = np.random.default_rng(3)
    pool = simulated(draws, 3000, informative=4.0)
    tuned, proving = split_pictures(3000, 0.02, 0.95, 0)
    parts = [each.of(tuned) for each in pool], of_way(pool, proving)
    promise = prove(*parts, 0.02, 0.95)
    alone = prove(*parts, 0.02, 0.95, fallback=False)
    assert promise.fixed is not None
    assert promise.chosen.tokens < promise.fixed.tokens == alone.chosen.tokens == 121.0
    assert "at most 2 % of answers change, with 95 % confidence" in promise.sentence
    assert [step.proved for step in promise.steps] == sorted((step.proved for step in promise.steps), reverse=True)


def test_where_relevance_is_broken_it_costs_tokens_and_not_the_promise() -> None:
    draws = np.random.default_rng(4)
    pool = simulated(draws, 900, rates=(0.9, 0.8, 0.7), informative=0.0)
    tuned, proving = split_pictures(900, 0.02, 0.95, 0)
    promise = prove([each.of(tuned) for each in pool], of_way(pool, proving), 0.02, 0.95)
    assert not promise.chosen.rule.ways
    assert promise.chosen.tokens == 576.0
    assert "everything stays" in promise.sentence


def test_questions_of_one_picture_are_one_draw() -> None:
    """Ten copies of a picture's question prove no more than one."""
    draws = np.random.default_rng(5)
    one = simulated(draws, 300)
    ten = [
        Outcomes(
            each.way,
            np.repeat(each.picture, 10),
            *(np.repeat(values, 10) for values in (each.loss, each.kept, each.full)),
            {SIGNAL: np.repeat(each.confidence[SIGNAL], 10)},
        )
        for each in one
    ]
    tuned, proving = split_pictures(300, 0.05, 0.95, 0)
    promise = prove([each.of(tuned) for each in one], of_way(one, proving), 0.05, 0.95)
    for step in promise.steps:
        copied = step.rule.read(of_way(ten, proving)).by_picture
        assert p_value(copied, 0.05) == pytest.approx(step.p_value)


def test_a_second_rung_saves_tokens_where_the_first_is_unsure() -> None:
    """What both rungs cost and lose is counted question by question."""
    method = get_method("trim", budget=8)
    few, more = (Way(get_method(method, budget=count)) for count in (8, 32))
    n = np.arange(4, dtype=np.float64)
    sure = {SIGNAL: np.array([0.9, 0.1, 0.1, 0.9])}, {SIGNAL: np.array([0.9, 0.9, 0.1, 0.9])}
    pool = [
        Outcomes(way, n, np.array(loss), np.full(4, float(kept)), np.full(4, 576.0), confidence)
        for way, kept, loss, confidence in zip(
            (few, more), (8, 32), ([0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]), sure, strict=True
        )
    ]
    read = Rule((few, more), SIGNAL, 0.5).read(of_way(pool))
    assert read.loss.tolist() == [0.0, 1.0, 0.0, 1.0]  # the last one is wrong and sure at once
    assert read.tokens.tolist() == [8.0, 40.0, 616.0, 8.0]
    assert read.again.tolist() == [0.0, 1.0, 1.0, 0.0]
    own = Rule((few, more), SIGNAL, 0.5, (0.05,)).read(of_way(pool))  # the second way is content with less
    assert own.loss.tolist() == [0.0, 1.0, 1.0, 1.0]
    assert own.tokens.tolist() == [8.0, 40.0, 40.0, 8.0]
    alone = Rule((few,), SIGNAL, 0.5).read(of_way(pool))
    assert alone.tokens.tolist() == [8.0, 584.0, 584.0, 8.0]
    assert Rule().read(of_way(pool), pool[0]).tokens.tolist() == [576.0] * 4


def test_all_thresholds_together_are_read_as_one_by_one() -> None:
    draws = np.random.default_rng(8)
    pool = simulated(draws, 200)
    for rules in (ladder.rules for ladder in ladders(pool)):
        read = [rule.read(of_way(pool)) for rule in rules]
        lost, tokens = means([of_way(pool)(way) for way in rules[0].ways], rules)
        assert lost == pytest.approx([each.loss.mean() for each in read])
        assert tokens == pytest.approx([each.tokens.mean() for each in read])


def agreeing(draws: Any, n: int) -> list[Outcomes]:
    """With few tokens some answers change, each to another; the more tokens, the fewer. The signal knows a little of it."""
    pool = simulated(draws, n, rates=(0.2, 0.1, 0.06), informative=2.0)
    return [replace(each, said={1: np.where(each.loss > 0, 10.0 + number, 1.0)}) for number, each in enumerate(pool)]


def test_answers_that_agree_are_believed_where_that_saves_tokens() -> None:
    pool = agreeing(np.random.default_rng(12), 3000)
    tuned, proving = split_pictures(3000, 0.02, 0.95, 0)
    unknown = [replace(each, said={}) for each in pool]
    with_it, without = (
        prove([each.of(tuned) for each in known], of_way(known, proving), 0.02, 0.95) for known in (pool, unknown)
    )
    rule = with_it.chosen.rule
    assert rule.agreed
    assert not without.chosen.rule.agreed
    assert with_it.chosen.tokens < 0.8 * without.chosen.tokens
    config = config_of(with_it, [], {}).reduce.fallback
    found = fallback_of(config)
    assert found is not None
    assert found.agreed_of(0) == found.agreed_of(2) == math.inf
    assert found.agreed_of(1) == (0.0 if rule.agreed[0] == -math.inf else rule.agreed[0])


def test_all_thresholds_of_agreeing_answers_together_are_read_as_one_by_one() -> None:
    pool = agreeing(np.random.default_rng(13), 200)
    agreed = 0
    for rules in (ladder.rules for ladder in ladders(pool)):
        read = [rule.read(of_way(pool)) for rule in rules]
        lost, tokens = means([of_way(pool)(way) for way in rules[0].ways], rules)
        assert lost == pytest.approx([each.loss.mean() for each in read])
        assert tokens == pytest.approx([each.tokens.mean() for each in read])
        agreed += any(rule.agreed for rule in rules)
    assert agreed


def test_agreement_is_looked_at_only_where_it_matters() -> None:
    pool = agreeing(np.random.default_rng(4), 60)
    rules = [rule for ladder in ladders(pool) for rule in ladder.rules]
    assert any(rule.agreed for rule in rules)
    assert all(rule.agreed[0] < rule.later[0] for rule in rules if rule.agreed)


def test_what_is_said_is_compared_by_its_first_tokens() -> None:
    assert said_number([5, 7, -1]) == said_number([5, 7]) != said_number([5, 8])
    assert said_number([12, 3]) != said_number([1, 23])
    assert said_number([]) == said_number([-1])


def test_a_ladder_has_thresholds_of_its_own_where_that_saves_tokens() -> None:
    """The second rung is nearly as good as all tokens: what is asked again should seldom go on to all of them."""
    draws = np.random.default_rng(9)
    pool = simulated(draws, 3000, rates=(0.2, 0.1, 0.004), informative=3.0)
    tuned, proving = split_pictures(3000, 0.02, 0.95, 0)
    promise = prove([each.of(tuned) for each in pool], of_way(pool, proving), 0.02, 0.95)
    rule = promise.chosen.rule
    assert [way.method.budget.value for way in rule.ways][-1] == 121
    assert rule.later
    assert rule.later[0] < rule.threshold
    assert promise.chosen.tokens < promise.chosen.again * 576.0
    fallback = fallback_of(config_of(promise, [], {}).reduce.fallback)
    assert fallback is not None
    assert [fallback.threshold_of(rung) for rung in (0, 1)] == [rule.threshold, rule.later[0]]


@pytest.mark.parametrize("measure", ["margin", "entropy"])
def test_what_is_always_or_never_asked_again_can_be_saved(measure: Any, tmp_path: Path) -> None:
    """JSON has no infinite numbers."""
    ways = tuple(Way(get_method("trim", budget=count)) for count in (8, 32))
    for first, later in ((math.inf, -math.inf), (0.5, math.inf), (math.inf, 0.5)):
        rule = Rule(ways, (measure, 1), first, (later,))
        step = Step(rule, 0.5, 20.0, 0.0, 0.01, 0.01, proved=True)
        promise = Promise(0.02, 0.95, step, (step,), None, 8, 149, 576.0)
        path = tmp_path / f"{first}{later}.json"
        save_config(path, config_of(promise, [], {}))
        fallback = fallback_of(read_config(path).reduce.fallback)
        assert fallback is not None
        for rung, threshold in enumerate((first, later)):
            for sure in (-12.0, -0.1, 0.0) if measure == "entropy" else (0.0, 0.4, 1.0):
                assert (sure >= fallback.threshold_of(rung)) == (sure >= threshold)


@pytest.mark.parametrize(("n", "risk"), [(149, 0.02), (1000, 0.02), (3000, 0.05), (148, 0.02)])
def test_a_provable_rate_proves_as_often_as_it_says(n: int, risk: float) -> None:
    rate = provable_rate(n, risk, 0.95)
    assert (rate > 0) == (n >= needed(risk, 0.95))
    if rate > 0:
        draws = np.random.default_rng(0).binomial(n, rate, 4000)
        proved = [binom.cdf(ones, n, risk) <= 0.05 for ones in draws]
        assert np.mean(proved) == pytest.approx(0.8, abs=0.03)


class FakeProbe:
    """What the full model says to one batch, with labels."""

    def __init__(self, answers: list[str], labels: list[str | None]) -> None:
        self.pairs = [Pair(number, str(number), None, "What?", label) for number, label in enumerate(labels)]
        self.batches = [self.pairs]
        self._answers = answers

    def said(self, number: int) -> Any:
        return SimpleNamespace(tokens=None)

    def texts(self, tokens: Any) -> list[str]:
        return self._answers

    def cut(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("answers", "labels", "words"),
    [
        (["Yes"] * 3, [None] * 3, "one and the same answer to every question"),
        (["Yes", "No", "No"], ["Yes"] * 3, "all labels are one and the same"),
        (["Yes", "No", "No"], ["No", "Yes", "Yes"], "no answer is right with all tokens"),
        (["Yes", "No", "No"], ["Yes", "No", "Yes"], None),
    ],
)
def test_what_pictures_cannot_tell_is_said(answers: list[str], labels: list[str | None], words: str | None) -> None:
    changed = simulated(np.random.default_rng(0), 50)
    probe: Any = FakeProbe(answers, labels)
    found = notes_of(probe, changed, generic=False)
    assert [words in note for note in found] == [True] if words else found == ()
    assert any("general ones" in note for note in notes_of(probe, changed, generic=True))


@pytest.mark.parametrize(
    ("answer", "label", "right"),
    [
        ("Yes.", "yes", True),
        ("two dogs", "Two", True),
        ("twofold", "two", False),
        ("", "two", False),
        ("anything", "", False),
        ("a red ball, I think", "a red ball", True),
        ("not a red ball", "red ball", False),
    ],
)
def test_an_answer_is_right_where_it_begins_with_its_label(answer: str, label: str, right: bool) -> None:
    assert is_right(answer, label) is right


def test_answers_that_were_cut_are_said_to_be() -> None:
    """What comes behind the tokens that were compared is not promised."""
    pool = simulated(np.random.default_rng(0), 400, rates=(0.0, 0.0, 0.0))
    found = prove(pool, of_way(pool), 0.05, 0.9, compared=8)
    assert "answers change in their first 8 tokens, with 90 % confidence" in found.sentence
    assert "first" not in prove(pool, of_way(pool), 0.05, 0.9).sentence


def test_scores_behind_the_look_ahead_change_nothing_of_what_is_seen() -> None:
    """A fallback that looks at one token keeps an answer whose third has no scores: so has the calibration to count it."""
    scores = torch.tensor([[[9.0, 0.0], [9.0, 0.0], [math.nan, math.nan]]])
    real = torch.ones(1, 3, dtype=torch.bool)
    logp = scores.log_softmax(-1)
    watch = ConfidenceWatch(Fallback(measure="margin", tokens=1, threshold=0.5), 0, torch.tensor([7]))
    watch(torch.zeros(1, 1, dtype=torch.long), scores[:, 0])
    assert bool(confidence_seen(scores, logp, real, ("margin", 1)) >= 0.5) is not bool(watch.unsure())
    assert confidence_seen(scores, logp, real, ("margin", 4)).tolist() == [-math.inf]
