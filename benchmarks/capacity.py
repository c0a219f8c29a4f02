"""From which batch on fewer tokens save 30 % of the memory, and what a memory then holds: ``python -m benchmarks.capacity``.

By the formulas of ``trimkit.bench``, weights included, in bfloat16. ``--measure`` sets measured peaks beside them: one layer of
each language model, float32, on this machine (minutes on a CPU). Writes ``benchmarks/results/capacity.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.cells import percent, table
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit.bench.capacity import Load, largest_batch, saved_share
from trimkit.bench.formula import sizes_of_shape
from trimkit.bench.shapes import SHAPES, shape_of

KEPT = {
    "llava-1.5-7b": 121,
    "llava-1.5-13b": 121,
    "llava-next-7b": 320,
    "llava-next-13b": 320,
    "qwen2.5-vl-7b": 269,
    "qwen2.5-vl-7b-4096": 860,
}
"""Image tokens that stay: the paper's 121, 320 as rivals have it on LLaVA-NeXT, 21 % on Qwen2.5-VL."""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
MEMORIES = (24, 40, 80)
WANTED, ELEMENT, NEW_TOKENS = 0.30, 2, (5, 128)


def loads(name: str, kept: int, new_tokens: int) -> tuple[Load, Load]:
    """With all tokens, and with fewer."""
    sizes = sizes_of_shape(shape_of(name))
    full = Load(sizes, SHAPES[name].image_tokens, new_tokens=new_tokens)
    return full, Load(sizes, kept, new_tokens=new_tokens, reduced=True)


def first_batch(name: str, kept: int, new_tokens: int) -> int | None:
    """The smallest batch at which the wanted share is saved; None where no batch of 4,096 does."""
    full, reduced = loads(name, kept, new_tokens)
    for batch in range(1, 4097):
        if saved_share(full, reduced, batch, ELEMENT)["saved"] >= WANTED:
            return batch
    return None


def row(name: str, new_tokens: int) -> Record:
    """All of one shape and reply length."""
    kept = KEPT[name]
    full, reduced = loads(name, kept, new_tokens)
    first = first_batch(name, kept, new_tokens)
    serves = {
        str(gigabytes): [largest_batch(load, gigabytes * 10**9, ELEMENT) for load in (full, reduced)]
        for gigabytes in MEMORIES
    }
    return {
        "shape": name,
        "image_tokens": [full.image_tokens, kept],
        "new_tokens": new_tokens,
        "saved": [saved_share(full, reduced, batch, ELEMENT) for batch in BATCHES],
        "first_batch": None if first is None else saved_share(full, reduced, first, ELEMENT),
        "largest_batch": serves,
    }


def measured(name: str, batch: int, layers: int = 1) -> Record:
    """Peaks of one call each, full and reduced, beside the formula's for the layers that were built."""
    import torch

    from trimkit.bench.arms import Arm
    from trimkit.bench.memory import measure_peak
    from trimkit.bench.subject import RandomModel
    from trimkit.methods import get_method

    shape = shape_of(name, layers)
    subject = RandomModel(shape, 40, torch.device("cpu"), torch.float32, 0)
    sizes = sizes_of_shape(shape)
    found: Record = {"shape": name, "layers": layers, "batch": batch, "dtype": "float32"}
    for title, method in (("full", None), ("reduced", get_method("random", budget=KEPT[name]))):
        arm = Arm(subject, method, batch, 1)
        request = arm.request()
        arm.call(arm.request(1))  # warms up, on another picture
        arm.forget()
        size, how = measure_peak(lambda arm=arm, request=request: arm.call(request), torch.device("cpu"))  # type: ignore[misc]
        tokens = shape.image_tokens if method is None else KEPT[name]
        load = Load(sizes, tokens, new_tokens=1, reduced=method is not None)
        found[title] = {"measured_bytes": size, "formula_bytes": load.peak(batch, 4)["peak"], "how": how}
    return found


def saved(record: Record) -> str:
    """A row a shape and reply length."""
    header = ["shape", "image tokens", "new tokens", "batch 1", "batch 8", "batch 32", "30 % from batch", "bytes then"]
    header += ["requests in 80 GB, full", "reduced"]
    rows = []
    for each in record["results"]:
        by_batch = {entry["batch"]: percent(entry["saved"]) for entry in each["saved"]}
        first = each["first_batch"]
        cells = [f"`{each['shape']}`", "{1} of {0}".format(*each["image_tokens"]), str(each["new_tokens"])]
        cells += [by_batch[1], by_batch[8], by_batch[32], "none" if first is None else str(first["batch"])]
        cells.append(
            "" if first is None else f"{first['full_bytes'] / 1e9:.1f} to {first['reduced_bytes'] / 1e9:.1f} GB"
        )
        rows.append([*cells, *map(str, each["largest_batch"]["80"])])
    note = (
        "Memory of weights and request, bfloat16, 40 text tokens, by formula. The reduced model holds what scores, too: "
        "a text tower, or a whole CLIP beside towers that have none; below 0 it is more than is saved."
    )
    return f"{table(header, rows)}\n\n{note}"


def checked(record: Record) -> str:
    """Measured peaks beside the formula's."""
    if not record["measured"]:
        return "*Not measured yet: `python -m benchmarks.capacity --measure`.*"
    header = ["shape", "batch", "full, measured", "formula", "reduced, measured", "formula", "saved / formula"]
    rows = []
    for each in record["measured"]:
        sizes = [each[arm][key] for arm in ("full", "reduced") for key in ("measured_bytes", "formula_bytes")]
        ratio = (sizes[0] - sizes[2]) / (sizes[1] - sizes[3])
        name = f"`{each['shape']}`, {each['layers']} layer"
        rows.append([name, str(each["batch"]), *[f"{size / 1e6:.0f} MB" for size in sizes], f"{ratio:.2f}"])
    return f"{table(header, rows)}\n\nAbove the idle model, float32."


TABLES = {
    "capacity": made_of("capacity", saved, "capacity"),
    "capacity-measured": made_of("capacity", checked, "capacity"),
}


def main() -> None:
    """Work it out, measure where asked, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", metavar="SHAPE:BATCH", nargs="*", help="default: 7B and 13B at batch 1 and 2")
    parser.add_argument("--out", type=Path, default=RESULTS / "capacity.json")
    given = parser.parse_args()
    before = json.loads(given.out.read_text(encoding="utf-8"))["measured"] if given.out.is_file() else []
    config = {"kept": KEPT, "wanted": WANTED, "memories_gb": MEMORIES, "dtype": "bfloat16"}
    record: dict[str, Any] = {"experiment": "capacity", "config": config, "provenance": provenance()}
    record |= {"results": [row(name, new) for name in KEPT for new in NEW_TOKENS], "measured": before}
    asked = given.measure or (
        ["llava-1.5-7b:1", "llava-1.5-7b:2", "llava-1.5-13b:1"] if given.measure is not None else []
    )
    for each in [None, *asked]:
        if each is not None:
            name, _, batch = each.partition(":")
            found = measured(name, int(batch or 1))
            kept = [one for one in record["measured"] if (one["shape"], one["batch"]) != (name, found["batch"])]
            record["measured"] = [*kept, found]
        save(record, given.out)
    print(f"wrote {given.out.name}")


if __name__ == "__main__":
    main()
