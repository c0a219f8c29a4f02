"""``fallback=``: few tokens first, and more of them for the rows of whose answer the model is unsure."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

import trimkit
from tests import tiny
from tests.tiny import GREEDY
from trimkit.attach.confidence_watch import ConfidenceWatch
from trimkit.core.confidence import Fallback, answer_confidence, token_confidence

REDUCED: dict[str, Any] = {"method": "random", "budget": 0.2}
INF = math.inf


class _Collect(BaseStreamer):
    def __init__(self) -> None:
        self.seen: list[int] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.seen += value.flatten().tolist()

    def end(self) -> None:
        self.ended += 1


@pytest.fixture
def rows() -> dict[str, torch.Tensor]:
    return tiny.llava_batch([1, 1, 1, 1], seed=3)


def margins(model: Any, inputs: Any, tokens: int = 1, **reduced: Any) -> torch.Tensor:
    """Of every row, by hand: what the fallback compares with its threshold."""
    with trimkit.reduce(model, **reduced):
        out = model.generate(**inputs, **GREEDY, output_logits=True, return_dict_in_generate=True)
    scores = torch.stack(out.logits[:tokens], dim=1)
    return answer_confidence(scores, torch.ones(scores.shape[:2], dtype=torch.bool), "margin")


def test_sure_answers_stay(model: Any, rows: dict[str, torch.Tensor]) -> None:
    with trimkit.reduce(model, **REDUCED):
        expected = model.generate(**rows, **GREEDY)
    with trimkit.reduce(model, **REDUCED, fallback={"threshold": -INF}) as trim:
        assert torch.equal(model.generate(**rows, **GREEDY), expected)
    (rung,) = trim.report.rungs
    assert (rung.asked, rung.answered) == ((0, 1, 2, 3), (0, 1, 2, 3))
    assert rung.tokens == trim.report.tokens_after == trim.report.tokens_tried < trim.report.tokens_before


def test_unsure_answers_are_those_of_the_stock_model(model: Any, rows: dict[str, torch.Tensor]) -> None:
    expected = model.generate(**rows, **GREEDY)
    with trimkit.reduce(model, **REDUCED, fallback={"threshold": INF}) as trim:
        assert torch.equal(model.generate(**rows, **GREEDY), expected)
    few, all_of_them = trim.report.rungs
    assert (few.answered, all_of_them.answered) == ((), (0, 1, 2, 3))
    assert trim.report.tokens_after == trim.report.tokens_before
    assert trim.report.tokens_tried == few.tokens + all_of_them.tokens


@pytest.mark.parametrize("tokens", [1, 3])
def test_every_row_goes_its_own_way(model: Any, rows: dict[str, torch.Tensor], tokens: int) -> None:
    found = margins(model, rows, tokens, **REDUCED)
    threshold = float(found.sort().values[1:3].mean())
    with trimkit.reduce(model, **REDUCED):
        few = model.generate(**rows, **GREEDY)
    full = model.generate(**rows, **GREEDY)
    with trimkit.reduce(model, **REDUCED, fallback={"threshold": threshold, "tokens": tokens}) as trim:
        out = model.generate(**rows, **GREEDY)
    sure = found >= threshold
    assert torch.equal(out, torch.where(sure[:, None], few, full))
    assert trim.report.rungs[1].asked == tuple((~sure).nonzero().squeeze(1).tolist())
    kept = {image.row: image.keeps_all for image in trim.report.images}
    assert kept == {row: not bool(sure[row]) for row in range(4)}


def test_a_ladder_stops_where_it_is_sure(model: Any, rows: dict[str, torch.Tensor]) -> None:
    between = {"method": "random", "budget": 0.6}
    first, second = margins(model, rows, **REDUCED), margins(model, rows, **between)
    row = int((second - first).argmax())
    assert second[row] > first[row], "a row that is surer with more tokens"
    one = {name: value[row : row + 1] for name, value in rows.items()}
    threshold = float((first[row] + second[row]) / 2)
    with trimkit.reduce(model, **between):
        expected = model.generate(**one, **GREEDY)
    with trimkit.reduce(model, **REDUCED, fallback=trimkit.Fallback(threshold=threshold, ladder=(0.6,))) as trim:
        assert torch.equal(model.generate(**one, **GREEDY), expected)
    assert [rung.budget for rung in trim.report.rungs] == ["0.2 of the tokens", "0.6 of the tokens"]


@pytest.mark.parametrize(("own", "rungs"), [(INF, 3), (-INF, 2)])
def test_a_rung_of_the_ladder_has_its_own_threshold(
    model: Any, rows: dict[str, torch.Tensor], own: float, rungs: int
) -> None:
    """The first answer is never sure enough; the second one is, or is not, by its own threshold alone."""
    fallback = {"threshold": INF, "ladder": (0.6,), "thresholds": (own,)}
    with trimkit.reduce(model, method="random", budget=0.6 if rungs == 2 else 1.0):
        expected = model.generate(**rows, **GREEDY)
    with trimkit.reduce(model, **REDUCED, fallback=fallback) as trim:
        assert torch.equal(model.generate(**rows, **GREEDY), expected)
    assert len(trim.report.rungs) == rungs


@pytest.mark.parametrize("tokens", [1, 2])
def test_an_answer_that_agrees_with_the_one_before_stays(
    model: Any, rows: dict[str, torch.Tensor], tokens: int
) -> None:
    """Rows whose likeliest first tokens are the same with a few and with more image tokens; the others go on to all."""
    between = {"method": "random", "budget": 0.6}
    start = rows["input_ids"].shape[1]
    full, answers = model.generate(**rows, **GREEDY), []
    for reduced in (REDUCED, between):
        with trimkit.reduce(model, **reduced):
            answers.append(model.generate(**rows, **GREEDY))
    few, more = (answer[:, start : start + tokens] for answer in answers)
    same = (few == more).all(dim=1)
    assert tokens > 1 or same.any()
    fallback = {"threshold": INF, "tokens": tokens, "ladder": [0.6], "agreed": [-INF]}
    with trimkit.reduce(model, **REDUCED, fallback=fallback) as trim:
        out = model.generate(**rows, **GREEDY)
    assert trim.report.rungs[1].answered == tuple(same.nonzero().flatten().tolist())
    assert torch.equal(out, torch.where(same[:, None], answers[1], full))
    with trimkit.reduce(model, **REDUCED, fallback={**fallback, "agreed": [INF]}) as trim:
        assert torch.equal(model.generate(**rows, **GREEDY), full)


def test_rows_that_go_on_are_compared_with_what_they_said(model: Any, rows: dict[str, torch.Tensor]) -> None:
    """Of a batch, one row stays at once; each of the rest is compared with its own answer."""
    first = margins(model, rows, **REDUCED)
    threshold = float(first.sort().values[2:4].mean())
    fallback = {"threshold": threshold, "ladder": [0.2], "thresholds": [INF], "agreed": [-INF]}
    with trimkit.reduce(model, **REDUCED, fallback=fallback) as trim:  # the second rung says what the first did
        model.generate(**rows, **GREEDY)
    one, two = trim.report.rungs
    assert len(one.answered) == 1
    assert two.asked == two.answered == tuple(row for row in range(4) if row not in one.answered)


def test_a_token_behind_the_end_is_no_difference() -> None:
    """Looked at are three tokens; both answers end after the second, and what is drawn behind differs."""
    fallback = Fallback(threshold=INF, tokens=3, ladder=("8",), agreed=(-INF,))
    scores = torch.eye(9) * 30.0
    ids = torch.tensor([[0]])
    watches = []
    for last in (5, 6):
        before = watches[-1].said if watches else None
        watches.append(ConfidenceWatch(fallback, len(watches), torch.tensor([7]), before))
        for steps, token in enumerate((4, 7, last)):
            watches[-1](torch.cat([ids, torch.tensor([[4, 7, last]])], dim=1)[:, : 1 + steps], scores[token][None])
    assert watches[1].said.tolist() == [[4, 7, -1]]
    assert watches[0].unsure().tolist() == [True]
    assert watches[1].unsure().tolist() == [False]


def test_the_tower_runs_once(model: Any, rows: dict[str, torch.Tensor]) -> None:
    passes = []
    hook = model.model.vision_tower.register_forward_hook(lambda *_: passes.append(1))
    try:
        with trimkit.reduce(model, **REDUCED, fallback={"threshold": INF}):
            model.generate(**rows, **GREEDY)
    finally:
        hook.remove()
    assert len(passes) == 1


@pytest.mark.parametrize("threshold", [-INF, INF])
def test_nothing_is_streamed_before_its_rung_is_decided(model: Any, threshold: float) -> None:
    one = tiny.llava_batch([1], seed=2)
    streamer = _Collect()
    with trimkit.reduce(model, **REDUCED, fallback={"threshold": threshold, "tokens": 2}):
        out = model.generate(**one, **GREEDY, streamer=streamer)
    assert streamer.seen == out[0].tolist()
    assert streamer.ended == 1


def test_logits_of_both_rungs_are_joined(model: Any, rows: dict[str, torch.Tensor]) -> None:
    asked: dict[str, Any] = {**rows, **GREEDY, "output_logits": True, "return_dict_in_generate": True}
    threshold = float(margins(model, rows, **REDUCED).median()) + 1e-6
    with trimkit.reduce(model, **REDUCED, fallback={"threshold": threshold}):
        out = model.generate(**asked)
    width = rows["input_ids"].shape[1]
    for step, logits in enumerate(out.logits):
        assert torch.equal(logits.argmax(-1), out.sequences[:, width + step])


def test_pictures_of_several_rows_and_text_alone(model: Any) -> None:
    mixed = tiny.llava_batch([2, 0, 1], seed=4)
    expected = model.generate(**mixed, **GREEDY)
    with trimkit.reduce(model, **REDUCED, fallback={"threshold": INF}):
        assert torch.equal(model.generate(**mixed, **GREEDY), expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_beams": 2}, "beams"),
        ({"num_return_sequences": 2, "do_sample": True}, "several answers"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "attentions"),
    ],
)
def test_what_cannot_be_asked_again_is_refused(
    model: Any, rows: dict[str, torch.Tensor], options: dict[str, Any], said: str
) -> None:
    with trimkit.reduce(model, **REDUCED, fallback="full"), pytest.raises(trimkit.UnsupportedError, match=said):
        model.generate(**rows, max_new_tokens=2, **options)


@pytest.mark.parametrize(
    "wrong",
    [
        *("half", {"threshold": math.nan}, {"tokens": 0}, {"measure": "hope"}, {"ladder": ["none"]}, {"typo": 1}, 3),
        *({"thresholds": (0.5,)}, {"ladder": (0.6,), "thresholds": (0.5, 0.6)}),
        {"ladder": (0.6,), "thresholds": (math.nan,)},
        {"agreed": (0.5,)},
        {"ladder": (0.6,), "agreed": (math.nan,)},
    ],
)
def test_a_bad_fallback_is_one_line(model: Any, wrong: Any) -> None:
    with pytest.raises(trimkit.ConfigError, match="fallback"):
        trimkit.reduce(model, **REDUCED, fallback=wrong)


@pytest.mark.parametrize("method", [{"method": "none"}, {"method": "fastv", "budget": 0.5}])
def test_methods_that_drop_nothing_before_the_language_model(model: Any, method: dict[str, Any]) -> None:
    with pytest.raises(trimkit.ConfigError, match="fallback= goes with"):
        trimkit.reduce(model, **method, fallback="full")


def test_scores_that_are_no_numbers_are_unsure() -> None:
    scores = torch.tensor([[[0.0, 1.0, torch.nan]], [[0.0, -torch.inf, 9.0]]])
    real = torch.ones(2, 1, dtype=torch.bool)
    for measure in ("margin", "probability", "entropy"):
        found = answer_confidence(scores, real, measure)
        assert bool(found[0].isnan())
        assert float(found[1]) > -0.01 if measure == "entropy" else float(found[1]) > 0.99


def test_confidence_by_hand() -> None:
    scores = torch.tensor([0.5, 0.3, 0.2]).log()
    assert float(token_confidence(scores, "margin")) == pytest.approx(0.2)
    assert float(token_confidence(scores, "probability")) == pytest.approx(0.5)
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert float(token_confidence(scores, "entropy")) == pytest.approx(-entropy)
