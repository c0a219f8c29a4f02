"""What every question costs and loses with one way of reducing, and how sure the model is of its answer."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from trimkit.calibration._measure import Answers, Probe, Said, Values, finite, js_divergence, of_row, until_end
from trimkit.calibration._notes import task_of
from trimkit.core.choices import Positions
from trimkit.core.confidence import ENDED, Measure, answer_confidence
from trimkit.errors import ModelError
from trimkit.methods import Method

__all__ = [
    "LossMeasure",
    "Outcomes",
    "Signal",
    "Way",
    "full_texts",
    "is_right",
    "looked_at",
    "measure_outcomes",
    "refuse_broken",
    "said_number",
]

LossMeasure = Literal["answer", "divergence", "task-metric"]
"""``answer``: 1 where the greedy answer is another one, else 0. ``divergence``: Jensen-Shannon, over ln 2. ``task-metric``: 1
where the answer was right with all tokens and is wrong with few; needs labels."""

Signal = tuple[Measure, int]
"""A measure of confidence, and how many tokens of the answer it looks at."""

_MOST_LOOKED_AT = 4
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Way:
    """A way of reducing: the method with its options, and how the tokens that are left are numbered."""

    method: Method
    positions: Positions = "auto"


@dataclass(frozen=True)
class Outcomes:
    """One way, measured question by question. Every array is ``[questions]``.

    Attributes:
        way: what was measured.
        picture: which picture each question is about.
        loss: 0 (as the full model) to 1.
        kept, full: image tokens after and before.
        confidence: by signal; -inf where the scores were not numbers.
        said: by number of tokens looked at, numbers that are equal where the likeliest tokens are; empty where nobody knows.
    """

    way: Way
    picture: Values
    loss: Values
    kept: Values
    full: Values
    confidence: dict[Signal, Values]
    said: dict[int, Values] = field(default_factory=dict)

    def of(self, pictures: Values) -> Outcomes:
        """The questions about ``pictures`` alone."""
        here = np.isin(self.picture, pictures)
        sure = {signal: values[here] for signal, values in self.confidence.items()}
        said = {count: values[here] for count, values in self.said.items()}
        return Outcomes(self.way, self.picture[here], self.loss[here], self.kept[here], self.full[here], sure, said)


def looked_at(length: int) -> list[int]:
    """How many tokens of answers of at most ``length`` tokens are tried as the look-ahead."""
    return sorted({1, min(_MOST_LOOKED_AT, length), length})


def refuse_broken(probe: Probe, *, forget: bool = False) -> None:
    """Ask the full model everything, and refuse one that says nothing.

    Args:
        probe: of the model.
        forget: whether its distributions are not needed any more.

    Raises:
        ModelError: scores that are not numbers.
    """
    broken = 0
    for number, batch in enumerate(probe.batches):
        broken += int(probe.said(number).broken.sum())
        probe.advance(len(batch))
        if forget:
            probe.forget(number)
    if broken:
        raise ModelError(
            f"with all image tokens the model's scores are not finite for {broken} of {len(probe.pairs)} questions: nothing "
            "can be promised of it; load it with --dtype float32, or check its weights"
        )


def full_texts(probe: Probe) -> list[str]:
    """The full model's answers in words, pair by pair."""
    return [text for number in range(len(probe.batches)) for text in probe.texts(probe.said(number).tokens)]


def measure_outcomes(probe: Probe, way: Way, loss: LossMeasure = "answer") -> Outcomes:
    """All questions of ``probe``, answered greedily with reduced tokens."""
    task = task_of(way.method, way.positions, loss, "said")
    rows: list[list[float]] = []
    for number, batch in enumerate(probe.batches):
        rows += probe.noted(task, number, partial(_rows, probe, way, number, loss))
        probe.advance(len(batch))
    lost, kept, full, *others = np.array(rows, dtype=np.float64).T
    counts = looked_at(probe.length)
    sure, said = others[: -len(counts)], dict(zip(counts, others[-len(counts) :], strict=True))
    picture = np.array([pair.picture for pair in probe.pairs], dtype=np.float64)
    return Outcomes(way, picture, lost, kept, full, dict(zip(_signals(probe), sure, strict=True)), said)


def _signals(probe: Probe) -> list[Signal]:
    return [(measure, tokens) for measure in get_args(Measure) for tokens in looked_at(probe.length)]


def _rows(probe: Probe, way: Way, number: int, loss: LossMeasure) -> list[list[float]]:
    """Loss, tokens kept and before, confidence by signal and what was said, of every question of a batch."""
    inputs, questions = probe.inputs(number)
    out, report = probe.generate(way.method, inputs, questions, probe.length, way.positions, output_scores=True)
    tokens = out.sequences[:, inputs["input_ids"].shape[1] :].cpu()
    scores = torch.stack([step.float().cpu() for step in out.logits], dim=1)
    real = until_end(tokens, probe.ends)
    logp = scores.log_softmax(-1)
    lost = torch.where(finite(logp, real), _lost(probe, number, loss, tokens, scores), 1.0)
    seen = torch.stack([step.float().cpu() for step in out.scores], dim=1)  # as processors leave them
    sure = [confidence_seen(seen, logp, real, signal) for signal in _signals(probe)]
    likeliest = seen.argmax(dim=-1).masked_fill(~real, ENDED).tolist()
    counts = looked_at(probe.length)
    return [
        [
            *(float(lost[row]), *of_row(report, row)[:2], *(float(each[row]) for each in sure)),
            *(said_number(likeliest[row][:count]) for count in counts),
        ]
        for row in range(len(questions))
    ]


def said_number(tokens: Sequence[int]) -> float:
    """A number that is equal for equal tokens, and for others with a chance of 2 ** -52; trailing ``ENDED`` do not count."""
    spoken = ",".join(str(token) for token in tokens if token != ENDED)
    return float(int.from_bytes(hashlib.blake2b(spoken.encode(), digest_size=8).digest(), "big") >> 12)


def confidence_seen(seen: Tensor, logp: Tensor, real: Tensor, signal: Signal) -> Tensor:
    """``[B]`` what a fallback sees of answers when they are given: their first tokens alone, whatever comes behind.

    Args:
        seen: ``[B, T, V]`` scores from which tokens are taken.
        logp: ``[B, T, V]`` the model's own log-probabilities.
        real: ``[B, T]`` tokens of the answers.
        signal: measure, and how many tokens are looked at.

    Returns:
        Higher = surer; ``-inf`` where a score that is looked at is no number.
    """
    measure, count = signal
    found = answer_confidence(seen[:, :count], real[:, :count], measure)
    return torch.where(finite(logp[:, :count], real[:, :count]) & ~found.isnan(), found, -math.inf)


def _lost(probe: Probe, number: int, loss: LossMeasure, tokens: Tensor, scores: Tensor) -> Tensor:
    """``[B]`` loss of reduced answers ``tokens``, whose logits are ``scores``."""
    if loss == "divergence":
        return _diverged(probe.answer(number), scores)
    said = probe.said(number)
    real = until_end(tokens, probe.ends)
    if loss == "answer":
        return _changed(said, tokens, real)
    labels = [pair.label or "" for pair in probe.batches[number]]
    before, after = (
        [is_right(text, label) for text, label in zip(probe.texts(each), labels, strict=True)]
        for each in (said.tokens, tokens)
    )
    return torch.tensor([float(was and not still) for was, still in zip(before, after, strict=True)])


def is_right(answer: str, label: str) -> bool:
    """Whether an answer begins with the words of ``label``, whatever their case and the marks between them."""
    said, wanted = (_WORD.findall(text.casefold()) for text in (answer, label))
    return bool(wanted) and said[: len(wanted)] == wanted


def _changed(answers: Said, tokens: Tensor, real: Tensor) -> Tensor:
    """``[B]`` 1 where an answer is not the full model's, token for token."""
    width = max(tokens.shape[1], answers.tokens.shape[1])
    pairs = ((tokens, real), (answers.tokens, answers.real))
    ours, theirs = (torch.nn.functional.pad(t.masked_fill(~r, -1), (0, width - t.shape[1]), value=-1) for t, r in pairs)
    return (ours != theirs).any(dim=1).float()


def _diverged(answers: Answers, scores: Tensor) -> Tensor:
    """``[B]`` mean divergence over the tokens before which both answers are the same, 0 to 1."""
    steps = min(scores.shape[1], answers.logp.shape[1])
    ours, theirs = scores[:, :steps].log_softmax(-1), answers.logp[:, :steps]
    same = (ours.argmax(-1) == theirs.argmax(-1)).int().cumprod(dim=1)
    compared = torch.nn.functional.pad(same[:, :-1], (1, 0), value=1).bool() & answers.real[:, :steps]
    each = js_divergence(theirs, ours) / math.log(2.0)
    return (torch.where(compared, each, 0.0).sum(1) / compared.sum(1)).clamp(0.0, 1.0)
