"""What a moved slider costs in the page of ``trimkit demo``: ``python -m benchmarks.bench_page``.

On the demo model, for each method that chooses outside the language model: from the new budget to the HTML that is sent, kept
patches and relevance drawn and encoded. The picture and the question are known, as they are when a slider is moved; budgets
differ from call to call. ``new_question`` is the same after a question that was not asked before. ``seconds`` is the wall
clock, ``cpu_seconds`` the processor time of the thread and its helpers, which other programs do not change. The way to the
browser is not in it. Writes ``benchmarks/results/bench_page.json``.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_tables import seconds
from benchmarks.cells import table
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit.bench.stats import spread
from trimkit.web import markup
from trimkit.web.choices import build_method, choose, draw, method_kinds
from trimkit.web.model import LazyModel, Loaded
from trimkit.web.pictures import Picture, sample_picture, samples

LIMIT = 0.15
"""Seconds, of the issue that asked for the page."""


def once(loaded: Loaded, picture: Picture, question: str, name: str, share: float) -> tuple[float, float]:
    """Seconds by the wall clock and of processor time, as the page's handler works."""
    start, cpu = time.perf_counter(), time.process_time()
    choice = choose(loaded, picture, question, build_method(name, share))
    markup.figures(draw(choice.report), choice.report, choice.seconds)
    return time.perf_counter() - start, time.process_time() - cpu


def measure(loaded: Loaded, name: str, repeats: int) -> dict[str, Any]:
    """Spreads of both clocks."""
    every = [(sample_picture(each), samples()[each].question) for each in samples()]
    for picture, question in every:  # each picture is known, as after its first drawing
        once(loaded, picture, question, name, 0.5)
    moved, fresh = [], []
    for number in range(repeats):
        picture, question = every[number % len(every)]
        moved.append(once(loaded, picture, question, name, 0.05 + 0.9 * number / repeats))
        fresh.append(once(loaded, picture, f"{question} ({name} {number})", name, 0.2))
    return {
        case: {"seconds": spread([one for one, _ in times]), "cpu_seconds": spread([cpu for _, cpu in times])}
        for case, times in (("moved_slider", moved), ("new_question", fresh))
    }


def shown(record: Record) -> str:
    """A row a method."""
    rows = [
        [f"`{name}`", *(seconds(found[case][clock]) for case in ("moved_slider", "new_question") for clock in CLOCKS)]
        for name, found in record["results"].items()
    ]
    header = ["method", "moved slider", "processor time", "new question", "processor time"]
    repeats, (before, after) = record["config"]["repeats"], record["config"]["load"]
    note = (
        f"Demo model, {repeats} budgets and questions on five pictures, medians and quartiles. Load average of the machine: "
        f"{before:.0f} before, {after:.0f} after; above its number of cores, the wall clock counts other programs."
    )
    return f"{table(header, rows)}\n\n{note}"


CLOCKS = ("seconds", "cpu_seconds")
TABLES = {"bench-page": made_of("bench_page", shown, "bench_page")}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_page.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    loaded = LazyModel().get()
    results, load = {}, [os.getloadavg()[0]]
    for kind in method_kinds():
        if not kind.in_model:
            results[kind.name] = measure(loaded, kind.name, given.repeats)
            moved = results[kind.name]["moved_slider"]
            print(kind.name, *[f"{clock} {moved[clock]['median']:.3f}" for clock in CLOCKS], flush=True)
    load.append(os.getloadavg()[0])
    record: Record = {
        "experiment": "bench_page",
        "config": {"model": "demo", "repeats": given.repeats, "seed": None, "limit_s": LIMIT, "load": load},
        "provenance": provenance(),
        "results": results,
    }
    save(record, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
