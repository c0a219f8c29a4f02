"""What ``trimkit advise`` would have said of every measured ratio: ``python -m benchmarks.advice_check``.

Every ratio of a reduced request to a full one in ``results/bench_*.json`` is predicted from its settings, the constants of the
processor (``trimkit.advice.devices``, measured apart from these files) and the tower's layers that are in the file. Nothing is
fitted. A GPU's ratios are predicted from what ``trimkit advise --device here`` measured on it. Writes
``benchmarks/results/advice_check.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cells import table
from benchmarks.gpu.here import WAY
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit.advice.calls import calls_of
from trimkit.advice.devices import DEVICES, Device, Rate
from trimkit.advice.predict import Times, predict
from trimkit.bench.formula import LayerCall, Sizes, Work, of_layers, sizes_of_shape
from trimkit.bench.plan import AT_ONCE, planned
from trimkit.bench.shapes import SHAPES, shape_of
from trimkit.methods import get_method

TOLERANCE, WIN = 0.20, 0.95
QUESTION = 25
"""Tokens of the questions that ``trimkit bench`` asks, as CLIP's text tower gets them."""

NOT_COMPARED = {
    "bench_choosing": "choosing by itself, on two versions of the code",
    "bench_ask": "the first release's format: no list of arms",
    "bench_engines": "engines other than torch, in a form of its own; what its torch arm measures is in bench_tower",
    "bench_steps": "parts of a request by themselves, with no full request beside them",
    "bench_serve": "hostile requests and memory, no reduced request beside a full one",
    "bench_page": "the page's own choices, no full request",
    "bench_with_block": "attaching and detaching around a call, no reduced request",
}
"""Files of ``bench_*.json`` that hold no ratio of a reduced request to a full one."""

TIMES = ("end_to_end_s", "ttft_s", "prefill_s", "decode_per_token_s")


def device_of(about: Record) -> Device:
    """The processor of a file, with its threads: products and reading go by the thread."""
    if about["hardware"]["device"] != "cpu":
        raise LookupError(f"no constants for {about['hardware']['device']}: add its entry to trimkit.advice.devices")
    core, threads = DEVICES["epyc-core"], about["threads"]
    rates = {name: Rate(each.flops * threads, each.pack * threads) for name, each in core.rates.items()}
    grown = {name: getattr(core, name) * threads for name in ("bandwidth", "elementwise", "cache")}
    return replace(core, rates=rates, **grown)


def work_of(sizes: Sizes, arm: Record, full: Record, text: int) -> Work:
    """What the arm did, from its settings; of what was measured only which layers of the tower ran, and on how much."""
    reduced = arm["method"] != "none"
    batch, kept = arm["batch_size"], round(arm["image_tokens"])
    own = get_method(arm["method"], budget=kept) if reduced else None
    texts = (QUESTION,) * batch if own is not None and own.uses_text else ()
    inside = own is not None and own.prunes_llm
    work = planned(
        sizes,
        batch,
        round(full["image_tokens"]) if inside else kept,
        text,
        arm["new_tokens"],
        texts=texts,
        projected=batch * (round(full["image_tokens"]) if inside else kept),
        tower_layers=arm["tower_layers"],
        at_once=AT_ONCE if reduced else None,
    )
    if inside:
        first = own.first_short_layer(sizes.language.layers)
        lengths = [round(full["image_tokens"]) + text] * first + [kept + text] * (sizes.language.layers - first)
        work = replace(work, prefill=lengths)
    return work if arm.get("tower_keep") is None else replace(work, tower=_thinned(sizes, arm, work))


def _thinned(sizes: Sizes, arm: Record, work: Work) -> list[LayerCall]:
    """The tower with patches dropped after so many layers that its FLOPs are those that were counted."""
    from trimkit.bench.formula import flops

    left = round(arm["tower_keep"] * sizes.patches) + 1

    def with_whole(layers: int) -> list[LayerCall]:
        return [each if each.layer < layers else each._replace(length=left) for each in work.tower]

    def off(layers: int) -> float:
        return abs(flops(sizes, replace(work, tower=with_whole(layers)))["vision"] - arm["flops_by_stage"]["vision"])

    return with_whole(min(range(arm["tower_layers"] + 1), key=off))


def gpu_device(record: Record) -> Device:
    """The GPU of ``gpu.json``, by what ``trimkit advise --device here`` measured on it.

    Where that step did not run, or measured in the first way: the published H100 with the launch cost of the stock
    model's decoding steps in the same file: at batch 1 they wait for nothing else.
    """
    parts = record["steps"].get("here", {}).get("parts", [])
    found = next((part["device"] for part in parts if part.get("device") and part.get("way", 1) >= WAY), None)
    if found is not None:
        return Device(**{**found, "rates": {name: Rate(**each) for name, each in found["rates"].items()}})
    arms = [arm for part in _benches(record) for arm in part["bench"]["arms"]]
    step = next(a["decode_per_token_s"]["median"] for a in arms if a["method"] == "none" and a["batch_size"] == 1)
    calls = calls_of("llava", None)
    return replace(
        DEVICES["h100"], launch_s=step / (SHAPES["llava-1.5-7b"].layers * calls.layer + calls.around + calls.step)
    )


def _benches(record: Record) -> list[Record]:
    return [part for step in ("shapes", "claim") for part in record["steps"][step]["parts"] if "bench" in part]


def times_of(result: Record, arm: Record, full: Record, layers: int | None, device: Device | None = None) -> Times:
    """Predicted, with the layers that were built or with all."""
    about = result["provenance"]
    shape = shape_of(about["config"]["random"])
    sizes = sizes_of_shape(shape)
    sizes = of_layers(sizes, layers or about["shape"]["language"][0])
    method = None if arm["method"] == "none" else get_method(arm["method"])
    work = work_of(sizes, arm, full, about["config"]["text_tokens"])
    kept = 0 if method is None else round(arm["image_tokens"]) * arm["batch_size"]
    calls = calls_of(shape.kind, method)
    return predict(sizes, work, calls, device or device_of(about), about["dtype"], kept=kept)


def _value(times: Times, name: str, new_tokens: int) -> float:
    if name == "end_to_end_s":
        return times.whole
    if name == "ttft_s":
        return times.first
    if name == "prefill_s":
        return times.stages["prefill"]
    return times.stages["decode"] / (new_tokens - 1)


def compared(name: str, record: Record, device: Device | None = None) -> Iterator[Record]:
    """One entry for every measured ratio of a file."""
    for number, result in enumerate(record["results"]):
        for entry in result["ratios"]:
            cell = [a for a in result["arms"] if all(a[k] == entry[k] for k in ("batch_size", "new_tokens"))]
            full = next(arm for arm in cell if arm["method"] == "none")
            keys = ("method", "budget", "tower_keep")
            own = next(arm for arm in cell if all(arm.get(key) == entry.get(key) for key in keys))
            depths = [(None, entry)]
            if entry.get("extrapolated"):
                depths.append((result["provenance"]["shape"]["of_layers"], entry["extrapolated"]))
            for layers, measured in depths:
                both = [times_of(result, arm, full, layers, device) for arm in (own, full)]
                for what in TIMES:
                    if measured.get(what) is None:
                        continue
                    values = [_value(each, what, entry["new_tokens"]) for each in both]
                    predicted, seen = values[0] / values[1], measured[what]["median"]
                    yield {
                        "file": name,
                        "result": number,
                        "shape": result["provenance"]["config"]["random"],
                        **{key: entry.get(key) for key in (*keys, "batch_size", "new_tokens")},
                        "layers": layers or result["provenance"]["shape"]["language"][0],
                        "what": what,
                        "measured": seen,
                        "low": measured[what]["low"],
                        "high": measured[what]["high"],
                        "runs": measured[what]["runs"],
                        "predicted": predicted,
                        "error": predicted / seen - 1,
                        "right": (predicted < WIN) == (seen < WIN),
                    }


def everything() -> list[Record]:
    """Every ratio of every ``bench_*.json`` that has any.

    Raises:
        LookupError: a file that is neither compared nor listed in ``NOT_COMPARED``.
    """
    found = []
    for path in sorted(RESULTS.glob("bench_*.json")):
        if path.stem in NOT_COMPARED:
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        rows = list(compared(path.stem, record))
        if not rows:
            raise LookupError(f"{path.name} has no ratios: say why in NOT_COMPARED")
        found += rows
    return found + on_gpu()


def on_gpu() -> list[Record]:
    """Every ratio of ``gpu.json``; none where no GPU has been measured."""
    path = RESULTS / "gpu.json"
    if not path.is_file():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    return list(compared("gpu", {"results": [part["bench"] for part in _benches(record)]}, gpu_device(record)))


def summary(rows: list[Record]) -> Record:
    """How many there are, how far off, and which lie outside."""
    errors = sorted(abs(row["error"]) for row in rows)
    return {
        "ratios": len(rows),
        "within": sum(error <= TOLERANCE for error in errors),
        "tolerance": TOLERANCE,
        "median_error": errors[len(errors) // 2],
        "largest_error": errors[-1],
        "win_right": sum(row["right"] for row in rows),
        "outside": [row for row in rows if abs(row["error"]) > TOLERANCE],
    }


def shown(record: Record) -> str:
    """A row a file."""
    rows = []
    for name in sorted({row["file"] for row in record["results"]}):
        part = summary([row for row in record["results"] if row["file"] == name])
        cells = [f"`{name}`", str(part["ratios"]), f"{part['within']}", f"{100 * part['median_error']:.0f} %"]
        rows.append([*cells, f"{100 * part['largest_error']:.0f} %", f"{part['win_right']}"])
    header = ["file", "ratios", "within 20 %", "median error", "largest error", "win or not, right"]
    outside = record["summary"]["outside"]
    noted = "; ".join(
        f"outside lies {row['what']} of `{row['shape']}`, {row['layers']} layers, {row['new_tokens']} new tokens: measured "
        f"{row['measured']:.2f} ({row['low']:.2f} to {row['high']:.2f}, {row['runs']} runs), predicted {row['predicted']:.2f}"
        for row in outside
    )
    return f"{table(header, rows)}\n\n{noted.capitalize() + '. ' if noted else ''}A win is a ratio below {WIN}."


TABLES = {"advice-check": made_of("advice_check", shown, "advice_check")}


def main() -> None:
    """Compare, print what lies outside, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "advice_check.json")
    parser.add_argument("--all", action="store_true", help="print every ratio")
    given = parser.parse_args()
    rows = everything()
    about = summary(rows)
    for row in rows if given.all else about["outside"]:
        print(
            f"{row['file']} {row['shape']} {row['layers']} layers, {row['method']} {row['budget']} {row['tower_keep'] or ''} "
            f"batch {row['batch_size']}, {row['new_tokens']} tokens, {row['what']}: measured {row['measured']:.3f} "
            f"({row['low']:.3f} to {row['high']:.3f}), predicted {row['predicted']:.3f}, {100 * row['error']:+.0f} %"
        )
    print(
        f"{about['within']} of {about['ratios']} ratios within {TOLERANCE:.0%}; median error {about['median_error']:.1%}, "
        f"largest {about['largest_error']:.1%}; win or not right in {about['win_right']}"
    )
    config = {"tolerance": TOLERANCE, "win_below": WIN, "not_compared": NOT_COMPARED}
    device = DEVICES["epyc-core"].to_plain()
    record: dict[str, Any] = {"experiment": "advice_check", "config": config, "device": device}
    record |= {"provenance": provenance(), "summary": about, "results": rows}
    save(record, given.out)
    print(f"wrote {given.out.name}")


if __name__ == "__main__":
    main()
