"""The measuring itself: FLOPs and bytes of each arm once, then all arms in turn by the clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from trimkit.attach.cache_argument import cache_of_output
from trimkit.bench import formula
from trimkit.bench.arms import Arm, Run
from trimkit.bench.memory import measure_peak
from trimkit.bench.stats import orders
from trimkit.models import family_of

__all__ = ["Advance", "Counted", "Round", "calls_of", "count", "rounds"]

_PEAK_RUNS = 2
_COUNT_STEPS = 1 + _PEAK_RUNS

Advance = Callable[[int], None] | None


@dataclass(frozen=True)
class Counted:
    """What does not change from run to run.

    Attributes:
        image_tokens: that the language model is given of one picture; the mean where pictures differ.
        flops, prefill_flops: as torch counts them.
        kv_bytes: of the cache's tensors.
        work: what ran, for the formulas.
        peak_bytes, peak_how: see ``measure_peak``.
    """

    image_tokens: float
    flops: int
    prefill_flops: int
    kv_bytes: int
    work: formula.Work
    peak_bytes: int
    peak_how: str


@dataclass
class Round:
    """One turn of one arm: ``first`` with cold caches, ``warm`` the same question about another picture, ``later`` other
    questions about the first picture.
    """

    first: Run
    warm: Run | None = None
    later: list[Run] = field(default_factory=list)


def calls_of(arms: int, repeats: int, questions: int) -> int:
    """Steps that ``count`` and ``rounds`` report: so many ``generate`` calls, roughly, that each arm is run for."""
    return arms * (_COUNT_STEPS + (repeats + 1) * questions)


def count(arm: Arm, advance: Advance = None) -> Counted:
    """Run a few times, not by the clock; this also warms up."""
    request = arm.request()
    counter = _counter()
    arm.forget()
    with counter, arm.observed(lambda: float(counter.get_total_flops())) as trace:
        out = arm.call(request, return_dict_in_generate=True)
    held = [getattr(layer, name, None) for layer in cache_of_output(out).layers for name in ("keys", "values")]
    kv = sum(part.nbytes for part in held if part is not None)  # a layer without attention has none
    del out, held
    report = arm.report
    model = arm.subject.model
    placeholders = int((request.inputs["input_ids"] == family_of(model).image_token_id(model)).sum())
    given = placeholders if report is None else report.tokens_after
    pictures = arm.batch * arm.subject.pictures
    work = formula.Work(
        batch=arm.batch,
        tower=tuple(trace.tower),
        texts=tuple(trace.texts) if arm.reads_text else (),
        scored=arm.scorings * placeholders,
        projected=trace.projected,
        prefill=tuple(trace.prefill),
        new_tokens=arm.new_tokens,
    )
    peak, how = _peak(arm, request)
    if advance is not None:
        advance(_COUNT_STEPS)
    flops, first = int(counter.get_total_flops()), int(trace.passes[0].whole)
    return Counted(given / pictures, flops, first, kv, work, peak, how)


def rounds(arms: list[Arm], repeats: int, questions: int, advance: Advance = None) -> list[list[Round]]:
    """Every arm's turns, arm by arm; in each round all arms run, another one first each time.

    ``advance`` is called with ``questions`` after each arm's turn, the warm-up's included.
    """
    requests = [[arm.request(0, number) for number in range(questions)] for arm in arms]
    others = [arm.request(1, 0) if arm.reads_text else None for arm in arms]
    found: list[list[Round]] = [[] for _ in arms]
    for number in range(-1, repeats):  # the first round warms up
        order = orders(len(arms), repeats)[max(number, 0)]
        for which in order:
            turn = _turn(arms[which], requests[which], others[which])
            if number >= 0:
                found[which].append(turn)
            if advance is not None:
                advance(questions)
    return found


def _turn(arm: Arm, requests: list[Any], other: Any) -> Round:
    arm.forget()
    turn = Round(arm.time(requests[0]))
    turn.later = [arm.time(request) for request in requests[1:]]
    if other is not None:
        turn.warm = arm.time(other)
    arm.forget()  # what is held would count as another arm's memory
    return turn


def _peak(arm: Arm, request: Any) -> tuple[int, str]:
    """The least of a few runs: memory that is handed out in larger pieces than needed only adds."""
    seen = []
    how = ""
    for _ in range(_PEAK_RUNS):
        arm.forget()
        size, how = measure_peak(lambda: arm.call(request), arm.subject.model.device)
        seen.append(size)
    arm.forget()
    return min(seen), how


def _counter() -> Any:
    from torch.utils.flop_counter import FlopCounterMode

    # The counter's table has the fused attention of GPUs, not that of CPUs: the same arithmetic.
    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    )


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    batch, heads, rows, width = query
    return 2 * int(batch) * int(heads) * int(rows) * int(key[2]) * (int(width) + int(value[3]))
