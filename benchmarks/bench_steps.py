"""What each step that trimkit takes by itself is worth, without it and with it: ``python -m benchmarks.bench_steps``.

LLaVA-1.5-7B's vision tower and projector with random weights, on the CPU. The two ways of a step take turns, after one run each
that is not timed; a ratio is the median over the turns. What is compared is that part of a request alone: what a whole request
gains is in ``bench_prefill``, ``bench_added`` and ``bench_second_question``. Writes ``benchmarks/results/bench_steps.json``.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench_tables import factor, seconds
from benchmarks.cells import table
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit.bench.build import build_llava
from trimkit.bench.shapes import shape_of
from trimkit.bench.stats import orders, ratio, spread
from trimkit.core.types import ImageTokens
from trimkit.models import family_of
from trimkit.models._base import AT_ONCE
from trimkit.models._clip_tower import layer_states
from trimkit.models._signals import record_signals, signal_source

SHAPE, KEPT = "llava-1.5-7b", 121
FEATURES = -2
Way = Callable[[], Any]


def steps(model: Any, pixels: Tensor) -> dict[str, tuple[str, str, Way, Way]]:
    """By name: what is done without it, what with it, and the two of them to run. ``pixels`` is ``[AT_ONCE, 3, H, W]``."""
    tower, family, one = model.model.vision_tower, family_of(model), pixels[:1]
    half = copy.deepcopy(tower).to(torch.bfloat16)
    eager = copy.deepcopy(tower)
    eager.set_attn_implementation("eager")
    patches = layer_states(tower, one, [FEATURES])[FEATURES][0, 1:]

    def stock(of: Any = tower, **more: Any) -> Any:
        return of(one, output_hidden_states=True, return_dict=True, **more)

    def listened() -> list[ImageTokens]:
        with record_signals(signal_source(tower, FEATURES), frozenset({"cls_attention"})) as heard:
            state = layer_states(tower, one, [FEATURES])[FEATURES]
            return heard.onto([ImageTokens(features=state[0, 1:])])

    return {
        "the tower's last layer is not run": (
            "24 layers",
            "23 layers",
            stock,
            lambda: layer_states(tower, one, [FEATURES]),
        ),
        "the projector sees kept tokens alone": (
            f"{len(patches)} tokens",
            f"{KEPT} tokens",
            lambda: family.project(model, [patches]),
            lambda: family.project(model, [patches[:KEPT]]),
        ),
        "one row of one layer's attention is computed for methods that rank by it": (
            "eager attention, all maps",
            "one row beside stock attention",
            lambda: stock(eager, output_attentions=True),
            listened,
        ),
        f"{AT_ONCE} pictures go through the tower together": (
            "one by one",
            "together",
            lambda: [layer_states(tower, each, [FEATURES])[FEATURES] for each in pixels.split(1)],
            lambda: [layer_states(tower, pixels, [FEATURES])[FEATURES]],
        ),
        "bfloat16 where the CPU multiplies it": (
            "float32",
            "bfloat16",
            lambda: layer_states(tower, one, [FEATURES]),
            lambda: layer_states(half, one.to(torch.bfloat16), [FEATURES]),
        ),
    }


def measure(ways: tuple[Way, Way], repeats: int, seed: int) -> dict[str, Any]:
    """Seconds of both, and the ratio within a turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for way in ways:
        way()
    for turn in orders(2, repeats):
        for which in turn:
            start = time.perf_counter()
            ways[which]()
            times[which].append(time.perf_counter() - start)
    before, after = times
    return {"before_s": spread(before), "after_s": spread(after), "ratio": ratio(after, before, seed)}


def shown(record: Record) -> str:
    """A row a step."""
    rows = []
    for name, step in record["results"].items():
        times = [seconds(step[key]) for key in ("before_s", "after_s")]
        rows.append([name, step["before"], step["after"], *times, factor(step["ratio"])])
    config = record["config"]
    header = ["step", "without", "with", "time without", "time with", "ratio (95 %)"]
    note = f"`{config['shape']}`, random weights, seed {config['seed']}; medians of {config['repeats']} turns."
    return f"{table(header, rows)}\n\n{note}"


TABLES = {"bench-steps": made_of("bench_steps", shown, "bench_steps")}


@torch.no_grad()
def main() -> None:
    """Measure every step and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_steps.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shape = shape_of(SHAPE, layers=1)
    model = build_llava(shape, device=torch.device("cpu"), dtype=torch.float32, seed=given.seed)
    pixels = torch.randn(AT_ONCE, 3, shape.image_size, shape.image_size)
    config = {"shape": SHAPE, "repeats": given.repeats, "seed": given.seed, "kept": KEPT}
    record: Record = {"experiment": "bench_steps", "config": config, "provenance": provenance(), "results": {}}
    for name, (before, after, without, with_it) in steps(model, pixels).items():
        found = measure((without, with_it), given.repeats, given.seed)
        record["results"][name] = {"before": before, "after": after, **found}
        print(f"{name}: {found['ratio']['median']:.3f}", flush=True)
    save(record, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
