"""What a ``with`` block costs beside a call on an attached model: ``python -m benchmarks.bench_with_block``.

The demo model with its packaged pictures. Every round times three requests about the same picture, in turn: on a model that is
attached already; in a block of its own (``with trimkit.reduce(model, processor): model.generate(...)``), where the model has
had one before; and in a first block, for which scorer and caches are released. A request runs from the start of the block,
or of the call, to the end of ``generate``. ``cold`` has forgotten picture and question, so that both towers run; ``warm`` has
been asked the same before. Ratios are medians over rounds. Writes ``benchmarks/results/bench_with_block.json``.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import trimkit
from benchmarks.bench_tables import factor, seconds
from benchmarks.cells import table
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit.ask import build_inputs
from trimkit.bench.stats import orders, ratio, spread
from trimkit.demo import load_demo, sample_images
from trimkit.images import load_image

ARMS = ("attached", "block", "first_block")
NEW_TOKENS = 8
Way = Callable[[Any], float]


class Rounds:
    """The demo model, and the three ways of asking it."""

    def __init__(self) -> None:
        self.model, self.processor = load_demo()
        self._samples = list(sample_images().values())
        self._warm_up()

    def time(self, arm: str, number: int, *, cold: bool) -> float:
        """Seconds of one call about picture ``number``. What comes before and after it is not timed."""
        ways: dict[str, Way] = {"attached": self._attached, "block": self._block, "first_block": self._first_block}
        if cold and arm != "first_block":
            with trimkit.reduce(self.model, self.processor) as trim:
                trim.clear_cache()
        return ways[arm](self._inputs(number))

    def _inputs(self, number: int) -> Any:
        sample = self._samples[number % len(self._samples)]
        images, questions = [load_image(sample.path)], [sample.question]
        return build_inputs(self.model, self.processor, images, questions, max_new_tokens=NEW_TOKENS)

    def _warm_up(self) -> None:
        """Every picture and question once."""
        for number in range(len(self._samples)):
            self._block(self._inputs(number))

    def _attached(self, inputs: Any) -> float:
        trim = trimkit.attach(self.model, self.processor)
        with torch.no_grad():  # its scorer is found on the first call
            trim.reduced_lengths({**inputs, "pixel_values": torch.zeros_like(inputs["pixel_values"])}, query="ready?")
        try:
            start = time.perf_counter()
            _generate(self.model, inputs)
            return time.perf_counter() - start
        finally:
            trim.detach()

    def _block(self, inputs: Any) -> float:
        start = time.perf_counter()
        with trimkit.reduce(self.model, self.processor):
            _generate(self.model, inputs)
        return time.perf_counter() - start

    def _first_block(self, inputs: Any) -> float:
        trimkit.release(self.model)
        gc.collect()  # attachments that are over still hold the scorer
        return self._block(inputs)


def _generate(model: Any, inputs: Any) -> None:
    model.generate(**inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)


def measure(rounds: Rounds, repeats: int, seed: int, *, cold: bool) -> dict[str, Any]:
    """Seconds of every arm, and each block's ratio to the attached call of its round."""
    arms: Sequence[str] = ARMS if cold else ARMS[:2]  # a first block has nothing to be warm from
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for number, turn in enumerate(orders(len(arms), repeats)):
        for which in turn:
            times[arms[which]].append(rounds.time(arms[which], number, cold=cold))
    attached = times["attached"]
    ratios = {arm: ratio(times[arm], attached, seed) for arm in arms if arm != "attached"}
    return {"seconds": {arm: spread(values) for arm, values in times.items()}, "over_attached": ratios}


def shown(record: Record) -> str:
    """A row a case and an arm."""
    titles = {"attached": "attached before", "block": "second block", "first_block": "first block"}
    cases = {"cold": "new picture and question", "warm": "known picture and question"}
    rows = []
    for case, found in record["results"].items():
        for arm, took in found["seconds"].items():
            over = found["over_attached"].get(arm)
            rows.append([cases[case], titles[arm], seconds(took), "1" if over is None else factor(over)])
    config = record["config"]
    header = ["call", "how", "one request", "ratio to an attached call (95 %)"]
    note = f"Demo model, `trim`, {config['new_tokens']} new tokens, medians of {config['repeats']} rounds, all in turn."
    return f"{table(header, rows)}\n\n{note}"


TABLES = {"bench-with-block": made_of("bench_with_block", shown, "bench_with_block")}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_with_block.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = {"model": "demo", "repeats": given.repeats, "seed": given.seed, "new_tokens": NEW_TOKENS}
    rounds = Rounds()
    results = {}
    for case in ("cold", "warm"):
        results[case] = measure(rounds, given.repeats, given.seed, cold=case == "cold")
        print(f"{case}: second block {results[case]['over_attached']['block']['median']:.3f}", flush=True)
    record: Record = {
        "experiment": "bench_with_block",
        "config": config,
        "provenance": provenance(),
        "results": results,
    }
    save(record, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
