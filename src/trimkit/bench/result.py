"""From what was measured to the plain values that ``--json`` prints."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trimkit.bench import formula
from trimkit.bench.arms import STAGES, Arm, Run
from trimkit.bench.measure import Counted, Round
from trimkit.bench.stats import ratio, spread

__all__ = ["arm_result", "memory_result", "ratio_result"]

TIMES = ("ttft_s", "prefill_s", "decode_per_token_s", "end_to_end_s")


def arm_result(
    arm: Arm, counted: Counted, turns: Sequence[Round], sizes: formula.Sizes | None, element: int, full_layers: int
) -> dict[str, Any]:
    """One entry of ``arms``. ``full_layers``: of the whole model, where the one measured has fewer; else 0."""
    firsts = [turn.first for turn in turns]
    return {
        **arm.label,
        "image_tokens": counted.image_tokens,
        "batch_size": arm.batch,
        "new_tokens": arm.new_tokens,
        **{name: spread(_times(firsts, name)) for name in TIMES},
        "throughput": _throughput(arm, turns),
        "second_question": _second(turns),
        "stages_s": {name: spread([run.stages[name] for run in firsts]) for name in (*STAGES, "other")},
        "stage_shares": _shares(firsts),
        "added_share": _added(arm, turns),
        "flops": counted.flops,
        "prefill_flops": counted.prefill_flops,
        **_by_formula(counted, sizes, element),
        "peak_bytes": counted.peak_bytes,
        "peak_measured": counted.peak_how,
        "kv_bytes": counted.kv_bytes,
        "tower_layers": len({each.layer for each in counted.work.tower}) or None,
        "extrapolated": _extrapolated(firsts, counted, full_layers, sizes, element),
    }


def ratio_result(
    arm: Arm,
    counted: tuple[Counted, Counted],
    turns: tuple[Sequence[Round], Sequence[Round]],
    held: int,
    full_layers: int,
    seed: int,
    sizes: formula.Sizes | None,
    element: int,
) -> dict[str, Any]:
    """One entry of ``ratios``: an arm, then the full arm of the same batch and length; ``held`` bytes of weights."""
    mine, full = counted
    one, other = ([turn.first for turn in each] for each in turns)
    result: dict[str, Any] = {
        **arm.label,
        "batch_size": arm.batch,
        "new_tokens": arm.new_tokens,
        "image_tokens": mine.image_tokens / full.image_tokens,
        **{name: ratio(_times(one, name), _times(other, name), seed) for name in TIMES},
        "flops": mine.flops / full.flops,
        "prefill_flops": mine.prefill_flops / full.prefill_flops,
        "peak_bytes": _quotient(mine.peak_bytes, full.peak_bytes),
        "peak_with_weights_bytes": _quotient(held + mine.peak_bytes, held + full.peak_bytes),
        "kv_bytes": _quotient(mine.kv_bytes, full.kv_bytes),
    }
    for name, flops in (("prefill_s", result["prefill_flops"]), ("end_to_end_s", result["flops"])):
        found = result[name]
        key = f"{name.removesuffix('_s')}_time_over_flops"
        result[key] = None if found is None else {k: v if k == "runs" else v / flops for k, v in found.items()}
    if full_layers:
        result["extrapolated"] = None
    if full_layers and (layers := _alike(full)) and _alike(mine):
        pairs = (_deeper(one, layers, full_layers), _deeper(other, layers, full_layers))
        result["extrapolated"] = {
            name: ratio([run[name] for run in pairs[0]], [run[name] for run in pairs[1]], seed) for name in pairs[0][0]
        }
        if sizes is not None:
            peaks = [_deeper_peak(each, sizes, element, full_layers) for each in counted]
            held = formula.weights(formula.of_layers(sizes, full_layers))["model"] * element
            result["extrapolated"]["peak_bytes"] = _quotient(*peaks)
            result["extrapolated"]["peak_with_weights_bytes"] = _quotient(held + peaks[0], held + peaks[1])
    return result


def memory_result(
    arm: Arm, mine: Counted, full: Counted, sizes: formula.Sizes | None, element: int
) -> dict[str, Any] | None:
    """One entry of ``memory``: what an arm's request takes above the idle model, and the full one's, beside the formula."""
    if sizes is None:
        return None
    peaks = {name: formula.peaks(sizes, each.work, element) for name, each in (("full", full), ("reduced", mine))}
    saved, predicted = full.peak_bytes - mine.peak_bytes, peaks["full"]["peak"] - peaks["reduced"]["peak"]
    return {
        **arm.label,
        "batch_size": arm.batch,
        "new_tokens": arm.new_tokens,
        "full_peak_bytes": full.peak_bytes,
        "reduced_peak_bytes": mine.peak_bytes,
        "saved_bytes": saved,
        "predicted_saved_bytes": predicted,
        "saved_over_predicted": _quotient(saved, predicted),
        "predicted": peaks,
    }


def _times(runs: Sequence[Run], name: str) -> list[float]:
    return [run.times[name] for run in runs if name in run.times]


def _throughput(arm: Arm, turns: Sequence[Round]) -> dict[str, Any]:
    """A second's tokens, requests and pictures: with one question a picture, and with all that were asked."""
    wholes = [turn.first.times["end_to_end_s"] for turn in turns]
    sums = [sum(run.times["end_to_end_s"] for run in (turn.first, *turn.later)) for turn in turns]
    questions = 1 + len(turns[0].later)
    return {
        "tokens_per_s": spread([arm.batch * arm.new_tokens / whole for whole in wholes]),
        "requests_per_s": spread([arm.batch / whole for whole in wholes]),
        "images_per_s": spread([arm.batch * arm.subject.pictures / whole for whole in wholes]),
        "questions": questions,
        "images_per_s_all_questions": spread([arm.batch * arm.subject.pictures / whole for whole in sums]),
        "questions_per_s_all_questions": spread([arm.batch * questions / whole for whole in sums]),
    }


def _second(turns: Sequence[Round]) -> dict[str, Any] | None:
    """Later questions about the first picture, and their time over that of the first."""
    if not turns[0].later:
        return None
    later = [statistics.mean(run.times["end_to_end_s"] for run in turn.later) for turn in turns]
    first = [turn.first.times["end_to_end_s"] for turn in turns]
    return {"end_to_end_s": spread(later), "over_first": ratio(later, first)}


def _shares(runs: Sequence[Run]) -> dict[str, float]:
    shares = {
        name: statistics.median(run.stages[name] / run.times["end_to_end_s"] for run in runs) for name in runs[0].stages
    }
    return {name: round(share, 6) for name, share in shares.items()}


def _added(arm: Arm, turns: Sequence[Round]) -> dict[str, Any] | None:
    """What choosing adds to a call: with the question's embedding to be made, and with it held already."""
    if arm.method is None:
        return None
    warm = [turn.warm.added_share for turn in turns if turn.warm is not None]
    return {"cold": spread([turn.first.added_share for turn in turns]), "warm": spread(warm)}


def _by_formula(counted: Counted, sizes: formula.Sizes | None, element: int) -> dict[str, Any]:
    if sizes is None:
        return {"flops_formula": None, "prefill_flops_formula": None, "flops_by_stage": None, "kv_bytes_formula": None}
    stages = formula.flops(sizes, counted.work)
    return {
        "flops_formula": sum(stages.values()),
        "prefill_flops_formula": stages["prefill"],
        "flops_by_stage": stages,
        "kv_bytes_formula": formula.kv_bytes(sizes, counted.work, element),
    }


def _alike(counted: Counted) -> int:
    """How many layers of the language model were given the same length; 0 where it changes on the way."""
    return len(counted.work.prefill) if len(set(counted.work.prefill)) == 1 else 0


def _extrapolated(
    runs: Sequence[Run], counted: Counted, full_layers: int, sizes: formula.Sizes | None, element: int
) -> dict[str, Any] | None:
    """Times and bytes at the whole model's depth: each layer that is missing costs what one that is there does."""
    layers = _alike(counted)
    if not full_layers or not layers:
        return None
    deeper = _deeper(runs, layers, full_layers)
    times = {name: spread([run[name] for run in deeper]) for name in deeper[0]}
    return {
        "from_layers": layers,
        "to_layers": full_layers,
        **times,
        "kv_bytes": counted.kv_bytes // layers * full_layers,
        "peak_bytes": None if sizes is None else _deeper_peak(counted, sizes, element, full_layers),
    }


def _deeper(runs: Sequence[Run], layers: int, full_layers: int) -> list[dict[str, float]]:
    missing = (full_layers - layers) / layers
    rows = []
    for run in runs:
        prefill, decode = missing * run.layers["prefill"], missing * run.layers["decode"]
        adds: dict[str, float] = {"ttft_s": prefill, "prefill_s": prefill, "end_to_end_s": prefill + decode}
        row = {name: run.times[name] + add for name, add in adds.items()}
        if (each := run.times.get("decode_per_token_s")) is not None:
            row["decode_per_token_s"] = each + decode / run.steps
        rows.append(row)
    return rows


def _deeper_peak(counted: Counted, sizes: formula.Sizes, element: int, full_layers: int) -> int:
    """The measured peak, and what the formula adds to it at the whole depth: more KV cache, the same activations."""
    work = counted.work
    deep = replace(work, prefill=(work.prefill[0],) * full_layers)
    whole = formula.peaks(formula.of_layers(sizes, full_layers), deep, element)["peak"]
    return counted.peak_bytes + whole - formula.peaks(sizes, work, element)["peak"]


def _quotient(one: float, other: float) -> float | None:
    return one / other if other else None
