"""What choosing costs on the CPU, beside the loops of trimkit 0.1: ``python -m benchmarks.bench_choosing``.

576 patches of width 1,024 (LLaVA-1.5's), 121 kept, in float32, one thread. Focus and CDPruner choose from the same patches in
turn: as they do now, and with the loops that they had before, which are kept here to compare with (``Focus01``,
``CDPruner01``). Two kinds of made-up patches: ``smooth``, where a patch resembles its neighbours, as a picture's do, and
``noise``, where none resembles another. What is timed is ``Method.select``: scores, choice and report fields of all images of a
call. Both have to keep the same tokens of every image. Ratios are medians over rounds: of wall time, and of the time that the
processor gave to this process, which other processes disturb less. Writes ``benchmarks/results/bench_choosing.json``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench_tables import factor, seconds
from benchmarks.cells import table
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit.bench.stats import orders, ratio, spread
from trimkit.core.types import EncoderProfile, TokenBatch
from trimkit.methods import Method
from trimkit.methods.cdpruner import CDPruner
from trimkit.methods.focus import Focus

SIDE, WIDTH, KEPT = 24, 1024, 121
KINDS = ("smooth", "noise")


class Focus01(Focus):
    """Focus with its loop of version 0.1."""

    name = "focus-0.1"

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        worth, relevant = self.weigh(image, scores.unsqueeze(0), [count])
        return pick(worth[0], image.features[0].double(), count, self.redundancy, int(relevant[0]))


class CDPruner01(CDPruner):
    """CDPruner with its loop of version 0.1."""

    name = "cdpruner-0.1"

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        unit = torch.nn.functional.normalize(image.features[0].double(), dim=-1).nan_to_num(0.0)
        return greedy_map(scores, unit @ unit.T, count)


def pick(worth: Tensor, features: Tensor, count: int, redundancy: float = 1.0, relevant: int | None = None) -> Tensor:
    """``[count]`` in the order of choice: some by worth x novelty ** redundancy, the rest by novelty."""
    unit = torch.nn.functional.normalize(features, dim=-1).nan_to_num(0.0)
    novelty = unit.square().sum(dim=1)
    factor = torch.zeros(count, len(worth), dtype=unit.dtype)
    picked = torch.empty(count, dtype=torch.int64)
    left = torch.ones_like(worth, dtype=torch.bool)
    weighed = count if relevant is None else relevant
    for turn in range(count):
        new = novelty.masked_fill(~left, 0.0).clamp(min=1e-4)
        gains = worth * new**redundancy if turn < weighed else torch.where(new.amax() > 1e-4, new, worth)
        best = gains.masked_fill(~left, -1.0).argmax()
        picked[turn] = best
        left[best] = False
        row = unit @ unit[best] - factor[:turn, best] @ factor[:turn]
        factor[turn] = torch.where(novelty[best] > 1e-8, row / novelty[best].clamp(min=1e-12).sqrt(), 0.0)
        novelty = novelty - factor[turn].square()
    return picked


def greedy_map(quality: Tensor, similarity: Tensor, count: int) -> Tensor:
    """``[count]`` in the order of choice: greedy maximum of a determinantal point process."""
    quality, similarity = quality.double(), similarity.double()
    gains = quality.square() * similarity.diagonal().clamp(min=0.0)
    floor = 1e-9 * gains.amax()
    factor = torch.zeros(count, len(quality), dtype=torch.float64)
    picked = torch.empty(count, dtype=torch.int64)
    left = torch.ones_like(quality, dtype=torch.bool)
    for turn in range(count):
        volume = gains.masked_fill(~left | (gains <= floor), -1.0)
        best = torch.where(volume.amax() > 0, volume.argmax(), quality.masked_fill(~left, -1.0).argmax())
        picked[turn] = best
        left[best] = False
        row = quality[best] * similarity[best] * quality - factor[:turn, best] @ factor[:turn]
        factor[turn] = torch.where(gains[best] > floor, row / gains[best].clamp(min=1e-300).sqrt(), 0.0)
        gains = gains - factor[turn].square()
    return picked


PAIRS: dict[str, tuple[Method, Method]] = {
    "focus": (Focus(budget=KEPT), Focus01(budget=KEPT)),  # type: ignore[arg-type]  # a budget as users write it
    "cdpruner": (CDPruner(budget=KEPT), CDPruner01(budget=KEPT)),  # type: ignore[arg-type]
}


def patches(kind: str, images: int, seed: int, side: int = SIDE, width: int = WIDTH) -> TokenBatch:
    """Made-up patches of some images, and how relevant each is to a question."""
    generator = torch.Generator().manual_seed(seed)
    relevance = 8.0 * _smooth(torch.randn(images, 1, side, side, generator=generator))
    features = torch.randn(images, side * side, width, generator=generator)
    if kind == "smooth":
        maps = _smooth(torch.randn(images, 40, side, side, generator=generator)).flatten(2).transpose(1, 2)
        features = maps @ torch.randn(40, width, generator=generator) + 0.3 * features
    return TokenBatch(
        features=features,
        mask=torch.ones(images, side * side, dtype=torch.bool),
        relevance=relevance.flatten(1),
        profile=EncoderProfile(),
        grids=((side, side),) * images,
        keys=tuple(map(str, range(images))),
        lengths=(side * side,) * images,
        signals={"projected": tuple(features)},  # as if there were no projector
    )


def _smooth(maps: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(maps, 5, stride=1, padding=2)


def measure(method: str, batch: TokenBatch, repeats: int, seed: int) -> dict[str, Any]:
    """Seconds of both loops, before's over now's, and how many images they keep other tokens of."""
    times: list[list[float]] = [[], []]
    worked: list[list[float]] = [[], []]
    kept: list[list[list[int]]] = [[], []]
    for turn in orders(2, repeats):
        for which in turn:
            start, begun = time.perf_counter(), time.process_time()
            chosen = PAIRS[method][which].select(batch)
            worked[which].append(time.process_time() - begun)
            times[which].append(time.perf_counter() - start)
            kept[which] = [each.indices.tolist() for each in chosen]
    return {
        "seconds": {"now": spread(times[0]), "before": spread(times[1])},
        "processor_seconds": {"now": spread(worked[0]), "before": spread(worked[1])},
        "before_over_now": ratio(times[1], times[0], seed),
        "before_over_now_processor": ratio(worked[1], worked[0], seed),
        "images_kept_otherwise": sum(now != before for now, before in zip(*kept, strict=True)),
    }


def shown(record: Record) -> str:
    """A row a method, a batch and a kind of patches."""
    rows = []
    for found in record["results"]:
        case = [f"`{found['method']}`", str(found["images"]), found["kind"]]
        took = [seconds(found["seconds"][arm]) for arm in ("before", "now")]
        faster = [factor(found[name]) for name in ("before_over_now", "before_over_now_processor")]
        rows.append([*case, *took, *faster, str(found["images_kept_otherwise"])])
    config = record["config"]
    faster = ["times faster (95 %)", "the same by processor time"]
    header = ["method", "images", "patches", "0.1", "now", *faster, "images kept otherwise"]
    size = (
        f"{config['side'] ** 2} patches of width {config['width']}, {config['kept']} tokens, {config['repeats']} rounds"
    )
    return f"{table(header, rows)}\n\n{size}, in turn."


TABLES = {"bench-choosing": made_of("bench_choosing", shown, "bench_choosing")}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--side", type=int, default=SIDE, help="patches along a side of a picture")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_choosing.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results = []
    for images in given.images:
        for kind in KINDS:
            batch = patches(kind, images, given.seed, given.side)
            for method in PAIRS:
                found = measure(method, batch, given.repeats, given.seed)
                results.append({"method": method, "images": images, "kind": kind, **found})
                print(f"{method}, {images} {kind}: {found['before_over_now']['median']:.2f} times faster", flush=True)
    config = {"repeats": given.repeats, "seed": given.seed, "side": given.side, "width": WIDTH, "kept": KEPT}
    record: Record = {
        "experiment": "bench_choosing",
        "config": config,
        "provenance": provenance(),
        "results": results,
    }
    save(record, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
