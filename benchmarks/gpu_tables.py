"""The tables of ``python -m benchmarks.gpu``: a row for everything that it measures, "not run" until it has been.

What runs, in which order and for how long is in ``benchmarks/gpu/steps.py``; the result is ``benchmarks/results/gpu.json``.
A cell that the last run did not get to is the first run's (``gpu_first_run.json``), and marked so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.bench_tables import factor, megabytes, seconds, share
from benchmarks.cells import table
from benchmarks.gpu.work_list import ADDED, CHOOSING, CLAIM, COMPILED, KERNELS, SHAPES, WAITS
from benchmarks.records import Record, load, source

NOT_RUN = "not run"
EARLIER = "gpu_first_run"
MARK = "†"


def _record(name: str = "gpu") -> Record | None:
    record = load(name)
    return None if record is None or record["config"]["dry_run"] else record


def _parts(record: Record | None, step: str) -> list[Record]:
    return [] if record is None else record["steps"][step]["parts"]


def _text(step: str, header: list[str], rows: list[list[str]]) -> str:
    record = _record()
    if record is None or "provenance" not in record:
        note = "*Not measured yet: `python -m benchmarks.gpu` writes `benchmarks/results/gpu.json`.*"
        return f"{note}\n\n{table(header, rows)}"
    done = record["steps"][step]
    why = (
        f" The step: {done['status']}{', ' + done['why'] if done.get('why') else ''}."
        if done["status"] != "done"
        else ""
    )
    earlier = _record(EARLIER)
    marked = any(cell.endswith(MARK) for row in rows for cell in row)
    of_earlier = f" {MARK} {source(EARLIER, earlier)}" if marked and earlier is not None else ""
    return f"{table(header, rows)}\n\n{source('gpu', record)}{why}{of_earlier}"


def _found(parts: list[Record], **keys: Any) -> Record | None:
    return next((part for part in parts if all(part.get(key) == value for key, value in keys.items())), None)


def waits() -> str:
    """Host waits that trimkit adds to a call."""
    parts, rows = _parts(_record(), "waits"), []
    for method, budget, batch in WAITS:
        part = _found(parts, method=method, budget=budget, batch=batch)
        rows.append([f"`{method}`", budget, str(batch), NOT_RUN if part is None else str(part["waits"])])
    return _text("waits", ["method", "budget", "batch", "waits that it adds to a call"], rows)


def choosing() -> str:
    """Milliseconds of choosing."""
    parts, rows = _parts(_record(), "choosing"), []
    for method, tokens, batch in CHOOSING:
        part = _found(parts, method=method, tokens=tokens, batch=batch)
        took = NOT_RUN if part is None or "select_s" not in part else f"{1000 * part['select_s']['median']:.2f} ms"
        rows.append([f"`{method}`", str(tokens), str(batch), took])
    return _text("choosing", ["method", "image tokens", "batch", "choosing"], rows)


def kernels() -> str:
    """The greedy loops in three forms."""
    parts, rows = _parts(_record(), "kernels"), []
    for loop, tokens, images in KERNELS:
        cells = []
        for form in ("torch", "graph", "kernel"):
            part = _found(parts, loop=loop, tokens=tokens, images=images, form=form)
            took = NOT_RUN if part is None else f"{1000 * part['median_s']:.2f} ms"
            other = 0 if part is None or form == "graph" else images - part["images_as_on_cpu"]
            cells.append(took if not other else f"{took}, {other} of {images} chosen otherwise than on the CPU")
        rows.append([f"`{loop}`", str(tokens), str(images), *cells])
    return _text("kernels", ["loop", "image tokens", "images", "in torch", "CUDA graph of it", "Triton kernel"], rows)


def added() -> str:
    """What choosing adds to the time to the first token, beside the same number of tokens fed by hand."""
    parts, rows = _parts(_record(), "added"), []
    for method, batch in ADDED:
        own, hand = (_found(parts, method=name, batch=batch) for name in (method, "by hand"))
        cells = [NOT_RUN] * 3
        if own is not None and hand is not None and "added_s" in own:
            cells = [f"{1000 * each['median']:.1f} ms" for each in (hand["first_token_s"], own["first_token_s"])]
            spent = own["added_s"]
            cells.append(
                "{:.1f} ms ({:.1f} to {:.1f})".format(*(1000 * spent[name] for name in ("median", "q25", "q75")))
            )
        rows.append([f"`{method}`", str(batch), *cells])
    return _text("added", ["method", "batch", "first token, by hand", "first token", "added (quartiles)"], rows)


def _benches(step: str, wanted: Any) -> Iterator[tuple[list[str], Record | None, Record | None, Record | None]]:
    """Shape, batch and new tokens, then ratio, full arm and reduced arm."""
    runs = [(_parts(_record(), step), ""), (_parts(_record(EARLIER), step), f" {MARK}")]
    for shape, method, batch, new in wanted:
        cell = {"batch_size": batch, "new_tokens": new}
        found = ((bench, mark) for parts, mark in runs for bench in _of_shape(parts, shape, method, cell))
        bench, mark = next(found, (None, ""))
        title = [f"`{shape}`{mark}", f"`{method}`", str(batch), str(new)]
        if bench is None:
            yield title, None, None, None
            continue
        arms = [_found(bench["arms"], method=name, **cell) for name in ("none", method)]
        yield title, _found(bench["ratios"], method=method, **cell), arms[0], arms[1]


def _of_shape(parts: list[Record], shape: str, method: str, cell: dict[str, int]) -> Iterator[Record]:
    """Benchmarks of this shape that have this method's ratio."""
    for part in parts:
        of_shape = "bench" in part and part["settings"]["random"] == shape
        if of_shape and _found(part["bench"]["ratios"], method=method, **cell) is not None:
            yield part["bench"]


def shapes() -> str:
    """Full against reduced, eager."""
    header = ["shape", "method", "batch", "new tokens", "prefill, full", "prefill", "ratio", "FLOP ratio", "end to end"]
    header += ["peak, full", "peak", "choosing adds"]
    rows = []
    for title, entry, full, own in _benches("shapes", SHAPES):
        if entry is None or full is None or own is None:
            rows.append([*title, *[NOT_RUN] * 8])
            continue
        cells = [seconds(full["prefill_s"]), seconds(own["prefill_s"]), factor(entry["prefill_s"])]
        cells += [f"{entry['prefill_flops']:.3f}", factor(entry["end_to_end_s"]), megabytes(full["peak_bytes"])]
        rows.append([*title, *cells, megabytes(own["peak_bytes"]), share(own["added_share"]["cold"])])
    return _text("shapes", header, rows)


def compiled() -> str:
    """Compiled prefill and decoding."""
    parts, rows = [_parts(record, "compiled") for record in (_record(), _record(EARLIER))], []
    for batch, tokens in COMPILED:
        own, earlier = (_found(run, batch=batch, image_tokens=tokens) for run in parts)
        part = next((each for each in (own, earlier) if each is not None and "compiled" in each), None)
        cells = [NOT_RUN] * 5
        if part is not None:
            both = [part["eager"], part["compiled"]]
            cells = [seconds(each[name]) for name in ("prefill_s", "step_s") for each in both] + [
                f"{part['compile_s']:.0f} s"
            ]
        mark = f" {MARK}" if part is not None and part is earlier else ""
        rows.append([str(batch), f"{tokens}{mark}", *cells])
    header = [
        "batch",
        "image tokens",
        "prefill, eager",
        "compiled",
        "decoding step, eager",
        "compiled",
        "compiling took",
    ]
    return _text("compiled", header, rows)


def claim() -> str:
    """The paper's 67 % less time and 30 % less memory."""
    rows = []
    for title, entry, _, _ in _benches("claim", CLAIM):
        if entry is None:
            rows.append([*title, NOT_RUN, NOT_RUN])
            continue
        time, memory = entry["end_to_end_s"]["median"], entry["peak_with_weights_bytes"]
        rows.append([*title, f"{100 * (1 - time):.0f} %", f"{100 * (1 - memory):.0f} %"])
    return _text(
        "claim", ["shape", "method", "batch", "new tokens", "less time", "less memory, weights included"], rows
    )


TABLES: dict[str, Callable[[], str]] = {
    "gpu-kernels": kernels,
    "gpu-added": added,
    "gpu-waits": waits,
    "gpu-choosing": choosing,
    "gpu-shapes": shapes,
    "gpu-compiled": compiled,
    "gpu-claim": claim,
}
