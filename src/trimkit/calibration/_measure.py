"""How far reduced image tokens take a model from what it says with all of them.

The model answers every question greedily with all its image tokens, once. Each way of reducing is then led along that
answer, token by token (teacher forcing), and its next-token distributions are compared with those of the full model. Where
every most likely token is the full model's, greedy decoding gives the same answer, so agreement costs no decoding of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimkit.ask import build_inputs
from trimkit.attach import reduce
from trimkit.attach.ladder import everything
from trimkit.calibration._distances import js_divergence, kl_divergence
from trimkit.calibration._notes import Book, Notes, Pair, task_of
from trimkit.core.choices import Positions
from trimkit.core.types import Report
from trimkit.errors import InputError
from trimkit.methods import Method
from trimkit.models import family_of
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.scorers import Scorer

__all__ = [
    "Answers",
    "Arm",
    "Pair",
    "Probe",
    "Said",
    "Values",
    "finite",
    "js_divergence",
    "kl_divergence",
    "of_row",
    "until_end",
]

Values = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Arm:
    """One way of reducing, measured. Every array is ``[pictures]``, the mean over a picture's questions.

    Attributes:
        method: with all options.
        divergence: Jensen-Shannon divergence in nats, 0 to ln 2, mean over the answer's positions.
        kl: Kullback-Leibler divergence of reduced from full, in nats; likewise.
        agreement: share of questions whose greedy answer stays the same.
        kept, full: image tokens after and before.
        spread: standard deviation of the relevance over a picture's tokens; NaN where the method reads no text.
    """

    method: Method
    divergence: Values
    kl: Values
    agreement: Values
    kept: Values
    full: Values
    spread: Values

    @property
    def share(self) -> float:
        """Image tokens kept, as a share of all."""
        return float(self.kept.mean() / self.full.mean())


@dataclass(frozen=True)
class Answers:
    """What the full model says to one batch: ``tokens`` and ``real`` ``[B, T]``, ``logp`` ``[B, T, V]`` on the CPU."""

    tokens: Tensor
    real: Tensor
    logp: Tensor


@dataclass(frozen=True)
class Said:
    """What the full model says to one batch: ``tokens`` and ``real`` ``[B, T]``, ``broken`` ``[B]``: its scores are none."""

    tokens: Tensor
    real: Tensor
    broken: Tensor


class Probe:
    """Measures ways of reducing one model on the same pairs.

    Pictures are encoded once: all arms share a cache of features, the full model's answers included. The distributions of those
    answers, where they are asked for, take 4 bytes of memory for each pair, position and entry of the vocabulary.

    Args:
        model, processor: as ``trimkit.loading.load_model`` gives them.
        pairs: what is asked. One that the model cannot be asked is left out and named in ``skipped``.
        scorer: where relevance comes from, or None for methods that read no text.
        max_new_tokens: length limit of an answer.
        batch_size: pairs a call.
        advance: called with the number of pairs done after each batch.
        book: finished rows are taken from there, and go there.

    Raises:
        InputError: no pair is left.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        pairs: Sequence[Pair],
        *,
        scorer: Scorer | None = None,
        max_new_tokens: int = 8,
        batch_size: int = 8,
        advance: Callable[[int], None] | None = None,
        book: Book | None = None,
    ) -> None:
        self._model, self._processor, self._scorer = model, processor, scorer
        self.length, self._size = max_new_tokens, batch_size
        self.ends = model.generation_config.eos_token_id
        self.advance = advance or (lambda steps: None)
        self.positions: Positions = "auto"
        """How the tokens that are left are numbered, in ``measure``."""
        self._cache = FeatureCache(len({pair.picture for pair in pairs}))
        self.skipped: list[tuple[str, str]] = []
        self.pairs = [pair for pair in pairs if self._can_be_asked(pair)]
        if not self.pairs:
            raise InputError("there is no question that this model can be asked: give shorter ones")
        self.batches = [self.pairs[start : start + self._size] for start in range(0, len(self.pairs), self._size)]
        self._notes = Notes(book)
        self._inputs: dict[int, Any] = {}
        self._answers: dict[int, Answers] = {}
        self._said: dict[int, Said] = {}

    def ask_all(self) -> None:
        """Have the full model answer every batch now."""
        for number, batch in enumerate(self.batches):
            self.answer(number)
            self.advance(len(batch))

    def answer(self, number: int) -> Answers:
        """What the full model says to one batch; asked once."""
        if number not in self._answers:
            self._answers[number] = self._answer(number)
        return self._answers[number]

    def noted(self, task: str, number: int, rows: Callable[[], list[list[float]]]) -> list[list[float]]:
        """Numbers of every pair of a batch: those of the book, or what ``rows`` gives, which go there."""
        return self._notes.rows(task, self.batches[number], rows)

    def said(self, number: int) -> Said:
        """What the full model says to one batch, without its distributions."""
        if number not in self._said:
            rows = [torch.tensor(row).long() for row in self.noted("full", number, partial(self._say, number))]
            found = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # behind an end
            self._said[number] = Said(found[:, 1:], until_end(found[:, 1:], self.ends), found[:, 0].bool())
        return self._said[number]

    def cut(self) -> int:
        """How many of the full model's answers go on behind the length limit."""
        ends = {self.ends} if isinstance(self.ends, int) else set(self.ends or ())
        answers = [self.said(number) for number in range(len(self.batches))]
        rows = [(ids, int(real.sum())) for each in answers for ids, real in zip(each.tokens, each.real, strict=True)]
        return sum(count >= self.length and int(ids[count - 1]) not in ends for ids, count in rows)

    def _say(self, number: int) -> list[list[float]]:
        answers = self.answer(number)
        broken = ~finite(answers.logp, answers.real)
        return torch.cat([broken[:, None].long(), answers.tokens], dim=1).double().tolist()

    def forget(self, number: int) -> None:
        """Let the distributions of one batch go."""
        self._answers.pop(number, None)

    def texts(self, tokens: Tensor) -> list[str]:
        """Answers ``[B, T]`` in words."""
        decode = getattr(self._processor, "tokenizer", self._processor).batch_decode
        return [str(text) for text in decode(tokens, skip_special_tokens=True)]

    def measure(self, method: Method) -> Arm:
        """One way of reducing on all pairs."""
        task = f"follow {task_of(method)}"
        rows: list[list[float]] = []
        for number in range(len(self.batches)):
            rows += self.noted(task, number, partial(self._follow, method, number))
            self.advance(len(self.batches[number]))
        columns = np.array(rows, dtype=np.float64).T
        owners = np.array([pair.picture for pair in self.pairs])
        present = np.unique(owners)
        means = [np.array([column[owners == each].mean() for each in present]) for column in columns]
        return Arm(method, *means)

    def can_number(self, method: Method) -> bool:
        """Whether tokens that are left can be numbered one after another, and as they were."""
        return not (family_of(self._model).own_positions or method.prunes_llm)

    def _can_be_asked(self, pair: Pair) -> bool:
        try:
            build_inputs(self._model, self._processor, [pair.image], [pair.question], max_new_tokens=self.length)
        except InputError as error:
            self.skipped.append((pair.name, str(error)))
            return False
        return True

    def inputs(self, number: int) -> tuple[Any, list[str]]:
        """Model inputs of one batch, and its questions."""
        pairs = self.batches[number]
        questions = [pair.question for pair in pairs]
        if number not in self._inputs:
            images = [pair.image for pair in pairs]
            self._inputs[number] = build_inputs(
                self._model, self._processor, images, questions, max_new_tokens=self.length
            )
        return self._inputs[number], questions

    def _answer(self, number: int) -> Answers:
        inputs, questions = self.inputs(number)
        out, _ = self.generate(everything(), inputs, questions, self.length)
        tokens = out.sequences[:, inputs["input_ids"].shape[1] :].cpu()
        logp = torch.stack([step.float().log_softmax(-1).cpu() for step in out.logits], dim=1)
        return Answers(tokens, until_end(tokens, self.ends), logp)

    def _follow(self, method: Method, number: int) -> list[list[float]]:
        """Rows of what ``Arm`` holds, for one batch, along the full model's answers."""
        answers, (inputs, questions) = self.answer(number), self.inputs(number)
        start = inputs["input_ids"].shape[1]
        steps = answers.tokens.tolist()
        out, report = self.generate(
            method,
            inputs,
            questions,
            answers.tokens.shape[1],
            self.positions,
            prefix_allowed_tokens_fn=lambda row, ids: [steps[row][len(ids) - start]],
        )
        logq = torch.stack([step.float().log_softmax(-1).cpu() for step in out.logits], dim=1)
        real = answers.real
        same = (answers.logp.argmax(-1) == logq.argmax(-1)) | ~real
        js, kl = ((each(answers.logp, logq) * real).sum(1) / real.sum(1) for each in (js_divergence, kl_divergence))
        columns = zip(js.tolist(), kl.tolist(), same.all(dim=1).tolist(), strict=True)
        return [[*values, *of_row(report, row)] for row, values in enumerate(columns)]

    def generate(
        self,
        method: Method,
        inputs: Any,
        questions: list[str],
        length: int,
        positions: Positions = "auto",
        **options: Any,
    ) -> tuple[Any, Report]:
        """Greedy answers with their logits, and the report."""
        attachment = reduce(
            self._model,
            self._processor,
            method=method,
            scorer=self._scorer if method.needs_relevance else None,
            query=questions,
            cache_images=self._cache,
            positions=positions,
        )
        with attachment:
            out = self._model.generate(
                **inputs,
                **options,
                max_new_tokens=length,
                do_sample=False,
                num_beams=1,
                output_logits=True,
                return_dict_in_generate=True,
            )
        return out, attachment.report


def finite(logp: Tensor, real: Tensor) -> Tensor:
    """``[B]`` bool: none of the scores of an answer's tokens is NaN (-inf is probability 0)."""
    return ~(logp.isnan().any(dim=-1) & real[:, : logp.shape[1]]).any(dim=1)


def until_end(tokens: Tensor, end: int | Sequence[int] | None) -> Tensor:
    """``[B, T]`` bool: an answer's tokens, its end token included, without the padding behind."""
    ends = torch.tensor([] if end is None else [end] if isinstance(end, int) else list(end), dtype=tokens.dtype)
    ended = torch.isin(tokens, ends).int()
    return (ended.cumsum(dim=1) - ended) == 0


def of_row(report: Report, row: int) -> tuple[float, float, float]:
    """Tokens kept and before, and the spread of relevance, of one row's images."""
    images = [image for image in report.images if image.row == row]
    spreads = [float(image.relevance.float().std(correction=0)) for image in images if image.relevance is not None]
    spread = sum(spreads) / len(spreads) if spreads else math.nan
    return sum(image.tokens_after for image in images), sum(image.tokens_before for image in images), spread
