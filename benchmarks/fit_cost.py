"""What does a fitted scorer cost beside the vision tower? ``python -m benchmarks.fit_cost``.

Parameters, operations (counted by torch) and processor time of one picture and one question, in turn, on one thread.
The network has random weights: its cost does not depend on them. Writes ``benchmarks/results/fit_cost.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cells import percent, table
from benchmarks.records import RESULTS, Record, made_of
from benchmarks.run import provenance
from trimkit.loading import load_model
from trimkit.models import family_of
from trimkit.pipeline.model_store import scorer_of
from trimkit.scorers import FittedScorer, NetworkShape, ScoringNetwork, width_for

QUESTION = "What colour is the disc behind the fox?"
SHARE = 0.02


def counted(run: Callable[[], object]) -> int:
    """Floating-point operations."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def measure(repeats: int) -> dict[str, Any]:
    """Sizes, operations and median seconds of tower, fitted scorer and CLIP's text half."""
    torch.set_num_threads(1)
    model, processor = load_model("demo")
    family = family_of(model)
    tower = sum(each.numel() for each in model.model.vision_tower.parameters())
    vocabulary = len(model.get_input_embeddings().weight)
    pixels = {"pixel_values": torch.rand(1, 3, 336, 336)}
    with torch.no_grad():
        image = family.encode(model, pixels)[0]
        width = width_for(image.features.shape[1], vocabulary, int(SHARE * tower))
        network = ScoringNetwork(NetworkShape(image.features.shape[1], vocabulary, width))
        fitted, clip = FittedScorer(network, processor.tokenizer), scorer_of(model)

        def scored(scorer: Any) -> object:
            scorer.clear_cache()
            return scorer.similarity([image], [QUESTION])

        runs: dict[str, Callable[[], object]] = {
            "tower": lambda: family.encode(model, pixels),
            "fitted": lambda: scored(fitted),
            "clip": lambda: scored(clip),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(repeats + 1):
            for name, run in runs.items():
                started = time.thread_time()
                run()
                if turn:  # the first one warms up
                    seconds[name].append(time.thread_time() - started)
        operations = {name: counted(run) for name, run in runs.items()}
    return {
        "parameters": {"tower": tower, "fitted": network.shape.parameters},
        "width": width,
        "operations": operations,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "share_of_time": statistics.median(
            one / other for one, other in zip(seconds["fitted"], seconds["tower"], strict=True)
        ),
    }


def shown(record: Record) -> str:
    """Each as a share of the tower's."""
    found = record["results"]
    sizes, work, times = found["parameters"], found["operations"], found["seconds"]
    rows = [
        ["parameters", f"{sizes['tower']:,}", f"{sizes['fitted']:,}", percent(sizes["fitted"] / sizes["tower"])],
        ["operations", f"{work['tower']:,}", f"{work['fitted']:,}", percent(work["fitted"] / work["tower"])],
        ["ms", f"{1e3 * times['tower']:.1f}", f"{1e3 * times['fitted']:.2f}", percent(found["share_of_time"])],
    ]
    note = (
        f"Demo model, one picture and a question that is read for the first time, {record['config']['repeats']} turns; "
        f"processor time, whose share is the median over turns. CLIP's text half takes {1e3 * times['clip']:.2f} ms."
    )
    return f"{table(['', 'vision tower', 'fitted scorer', 'share'], rows)}\n\n{note}"


TABLES = {"fit-cost": made_of("fit_cost", shown, "fit_cost")}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS / "fit_cost.json")
    given = parser.parse_args()
    config = {"repeats": given.repeats, "question": QUESTION}
    record = {"experiment": "fit_cost", "config": config, "provenance": provenance(), "results": measure(given.repeats)}
    given.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
