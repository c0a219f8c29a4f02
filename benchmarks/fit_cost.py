"""What does a fitted scorer cost beside the vision tower? ``python -m benchmarks.fit_cost``.

Parameters, operations (counted by torch) and processor time of one picture and one question, in turn, on one thread, for the
demo model and for the tower of LLaVA-1.5-7B. The network has random weights: its cost does not depend on them. Writes
``benchmarks/results/fit_cost.json``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cells import table
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit.bench.build import build_llava, build_scorer
from trimkit.bench.shapes import shape_of
from trimkit.loading import load_model
from trimkit.models import family_of
from trimkit.pipeline.model_store import scorer_of
from trimkit.scorers import FittedScorer, NetworkShape, ScoringNetwork, width_for

QUESTION = "What colour is the disc behind the fox?"
SHARE = 0.02


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        model: its tower is.
        tokenizer: of the fitted scorer's questions.
        clip: the text half that reads the tower's features.
        vocabulary: rows of the word table.
    """

    model: Any
    tokenizer: Any
    clip: Any
    vocabulary: int


def counted(run: Callable[[], object]) -> int:
    """Floating-point operations."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def demo() -> Subject:
    """The demo model."""
    model, processor = load_model("demo")
    return Subject(model, processor.tokenizer, scorer_of(model), len(model.get_input_embeddings().weight))


def llava_7b() -> Subject:
    """LLaVA-1.5-7B's tower and text tower with random weights, and one layer of its language model, which is not run."""
    shape = replace(shape_of("llava-1.5-7b"), language=(1, 64, 1), inner=64)
    here: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}
    tokenizer = load_model("demo")[1].tokenizer  # about as fast as LLaVA's; its ids lie within the word table
    return Subject(build_llava(shape, **here), tokenizer, build_scorer(shape, **here), shape.vocabulary)


SUBJECTS: dict[str, Callable[[], Subject]] = {"demo": demo, "llava-1.5-7b": llava_7b}


def measure(subject: Subject, repeats: int) -> dict[str, Any]:
    """Sizes, operations and median seconds of tower, fitted scorer and CLIP's text half."""
    model, clip = subject.model, subject.clip
    family = family_of(model)
    tower = sum(each.numel() for each in model.model.vision_tower.parameters())
    pixels = {"pixel_values": torch.rand(1, 3, 336, 336)}
    with torch.no_grad():
        image = family.encode(model, pixels)[0]
        width = width_for(image.features.shape[1], subject.vocabulary, int(SHARE * tower))
        network = ScoringNetwork(NetworkShape(image.features.shape[1], subject.vocabulary, width))
        fitted = FittedScorer(network, subject.tokenizer)

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
    rows, clip = [], []
    for name, found in record["results"].items():
        sizes, work, times = found["parameters"], found["operations"], found["seconds"]
        rows += [
            [
                name,
                "parameters",
                f"{sizes['tower']:,}",
                f"{sizes['fitted']:,}",
                _share(sizes["fitted"] / sizes["tower"]),
            ],
            [name, "operations", f"{work['tower']:,}", f"{work['fitted']:,}", _share(work["fitted"] / work["tower"])],
            [name, "ms", f"{1e3 * times['tower']:.1f}", f"{1e3 * times['fitted']:.2f}", _share(found["share_of_time"])],
        ]
        clip.append(f"{1e3 * times['clip']:.1f} ms ({name})")
    note = (
        f"One picture and a question that is read for the first time, {record['config']['repeats']} turns on one thread; "
        f"processor time, whose share is the median over turns. CLIP's text half takes {' and '.join(clip)}."
    )
    return f"{table(['model', '', 'vision tower', 'fitted scorer', 'share'], rows)}\n\n{note}"


def _share(value: float) -> str:
    return f"{100 * value:.2g} %"


TABLES = {"fit-cost": made_of("fit_cost", shown, "fit_cost")}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS / "fit_cost.json")
    given = parser.parse_args()
    config = {"repeats": given.repeats, "question": QUESTION}
    torch.set_num_threads(1)
    results = {name: measure(subject(), given.repeats) for name, subject in SUBJECTS.items()}
    record = {"experiment": "fit_cost", "config": config, "provenance": provenance(), "results": results}
    save(record, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
