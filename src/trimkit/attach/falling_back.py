"""``generate`` with few image tokens, and once more with more of them for the rows of whose answer the model is unsure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from trimkit.attach.attached_model import AttachedModel
from trimkit.attach.cache_argument import cache_of, with_cache_named
from trimkit.attach.call_inputs import by_name, is_draft
from trimkit.attach.confidence_watch import ConfidenceWatch, HeldStreamer, StopUnsure
from trimkit.attach.generating import ReducedGenerate
from trimkit.attach.generation import one_sequence_a_row, setting_of
from trimkit.attach.joined_rows import AnsweredRows, join_rows
from trimkit.core.confidence import ENDED, Fallback
from trimkit.core.types import ImageReport, Report, Rung, StageSeconds
from trimkit.errors import UnsupportedError
from trimkit.pipeline.batch_rows import take_rows

__all__ = ["FallbackGenerate", "RungCall"]


@dataclass(frozen=True)
class RungCall:
    """One rung: the model as it is reduced there, and its ``generate``; ``budget`` in words."""

    attached: AttachedModel
    generate: ReducedGenerate
    budget: str


class FallbackGenerate:
    """Tries one rung after the other, from few image tokens to all.

    An answer is known to stay after its first ``fallback.tokens``: rows that do not are stopped there, and a streamer is given
    nothing before. The features of the tower are held, so that a rung costs a prefill and no pass of the tower.

    Args:
        rungs: at least two; the last one's answer stays, whatever it is.
        fallback: when an answer is asked for again.
    """

    def __init__(self, rungs: Sequence[RungCall], fallback: Fallback) -> None:
        self._rungs = rungs
        self._fallback = fallback
        self._attached = rungs[0].attached

    def __call__(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        """As ``ReducedGenerate``.

        Raises:
            UnsupportedError: beams, several answers a row, a draft model, a cache of the caller's, attentions.
        """
        kwargs = with_cache_named(self._attached.cache_name, by_name(stock, args, kwargs))
        if kwargs.get("inputs") is not None and kwargs.get("input_ids") is None:
            kwargs["input_ids"] = kwargs.pop("inputs")
        if is_draft(kwargs) or not self._attached.reducer.has_images(kwargs):
            return self._rungs[0].generate(stock, **kwargs)
        self._refuse(kwargs)
        batch = len(kwargs["input_ids"])
        answers: list[AnsweredRows] = []
        reports: list[tuple[Report, Rung]] = []
        left, owners, said = list(range(batch)), list[tuple[str, int]](), None
        for number, rung in enumerate(self._rungs):
            part, rows = self._part(kwargs, left, owners, batch)
            watch = self._watch(part, number, said, rows) if number < len(self._rungs) - 1 else None
            started = time.perf_counter()
            out = rung.generate(stock, **self._watched(part, watch))
            report = rung.attached.report
            owners = owners or [(image.medium, image.row) for image in report.images]
            stay = left if watch is None else self._sure(watch, rows, left)
            said = _by_row(watch.said, rows, batch) if watch is not None and self._fallback.agreed else None
            seconds, report = time.perf_counter() - started, _of_batch(report, rows)
            by_row = tuple(report.tokens_of_row(row) for row in left)
            tried = Rung(rung.budget, tuple(left), tuple(stay), report.tokens_after, by_row, seconds)
            answers.append(AnsweredRows(out, [rows.index(row) for row in stay], stay))
            reports.append((report, tried))
            left = [row for row in left if row not in stay]
            if not left:
                break
        self._attached.keep(_joined(self._attached.method.name, reports))
        return join_rows(answers, batch, self._pad(kwargs))

    def _part(
        self, kwargs: dict[str, Any], left: list[int], owners: list[tuple[str, int]], batch: int
    ) -> tuple[dict[str, Any], list[int]]:
        """The inputs of the rows that are left, and which rows of the batch they hold: all, where they cannot be parted."""
        if len(left) == batch:
            return dict(kwargs), left
        taken = take_rows(self._attached.reducer.family, self._attached.model, kwargs, left, owners)
        return (dict(kwargs), list(range(batch))) if taken is None else (taken, left)

    def _watch(self, kwargs: dict[str, Any], rung: int, said: torch.Tensor | None, rows: list[int]) -> ConfidenceWatch:
        ends = setting_of(self._attached.model.generation_config, kwargs, "eos_token_id")
        ids = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        before = None if said is None else said[rows]
        return ConfidenceWatch(self._fallback, rung, torch.tensor(ids, dtype=torch.long), before)

    def _watched(self, kwargs: dict[str, Any], watch: ConfidenceWatch | None) -> dict[str, Any]:
        """The arguments of a rung whose answer may not stay; those of the last one are the caller's."""
        if watch is None:
            return kwargs
        from transformers import LogitsProcessorList, StoppingCriteriaList

        kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or ()), watch])
        stop = StopUnsure(watch)
        kwargs["stopping_criteria"] = StoppingCriteriaList([*(kwargs.get("stopping_criteria") or ()), stop])
        if kwargs.get("streamer") is not None:
            kwargs["streamer"] = HeldStreamer(kwargs["streamer"], watch)
        return kwargs

    def _sure(self, watch: ConfidenceWatch, rows: list[int], left: list[int]) -> list[int]:
        """Rows of the batch of whose answer the model is sure."""
        unsure = watch.unsure().tolist()
        return [row for row, again in zip(rows, unsure, strict=True) if row in left and not again]

    def _pad(self, kwargs: dict[str, Any]) -> int:
        config = self._attached.model.generation_config
        for name in ("pad_token_id", "eos_token_id"):
            value = setting_of(config, kwargs, name)
            if value is not None:
                return int(value if isinstance(value, int) else next(iter(value)))
        return 0

    def _refuse(self, kwargs: dict[str, Any]) -> None:
        config = self._attached.model.generation_config
        wrong = {
            "beams or several answers a row": not one_sequence_a_row(config, kwargs),
            "a draft model (assistant_model)": kwargs.get("assistant_model") is not None,
            "a cache of the caller's": cache_of(kwargs) is not None,
            "attentions or hidden states in the output": any(
                setting_of(config, kwargs, name) for name in ("output_attentions", "output_hidden_states")
            ),
        }
        for what, given in wrong.items():
            if given:
                raise UnsupportedError(
                    f"fallback= asks a prompt again and does not go with {what}: leave one of them out"
                )


def _by_row(said: torch.Tensor, rows: Sequence[int], batch: int) -> torch.Tensor:
    """``[B, T]`` int64 on the host by row of the batch, of ``[R, T]`` for ``rows``; ``ENDED`` throughout for others."""
    found = torch.full((batch, said.shape[1]), ENDED, dtype=torch.int64)
    found[list(rows)] = said.cpu()
    return found


def _of_batch(report: Report, rows: Sequence[int]) -> Report:
    """With the rows of the whole batch."""
    return replace(report, images=tuple(replace(image, row=rows[image.row]) for image in report.images))


def _joined(method: str, tried: Sequence[tuple[Report, Rung]]) -> Report:
    """Of every row's images what the answer was given that stayed; seconds of all rungs."""
    images: list[ImageReport] = []
    for report, rung in tried:
        images += [image for image in report.images if image.row in rung.answered]
    seconds = StageSeconds(
        **{
            name: sum(getattr(r.seconds, name) for r, _ in tried)
            for name in (each.name for each in fields(StageSeconds))
        }
    )
    images.sort(key=lambda image: image.row)
    renderer = tried[0][0].renderer if len(tried) == 1 else None
    return Report(method, tuple(images), seconds, renderer=renderer, rungs=tuple(rung for _, rung in tried))
