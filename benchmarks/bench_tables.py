"""The tables of ``trimkit bench``: each maker turns the record of its experiment into a header, rows and a note."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.cells import table
from benchmarks.records import Record, made_of

Rows = tuple[list[str], list[list[str]], str]


def pairs(record: Record) -> list[tuple[str, Record, Record, Record]]:
    """Shape, full arm, reduced arm and their ratio, of every reduced arm of every result."""
    found = []
    for result in record["results"]:
        for entry in result["ratios"]:
            arms = [
                arm for arm in result["arms"] if all(arm[key] == entry[key] for key in ("batch_size", "new_tokens"))
            ]
            full = next(arm for arm in arms if arm["method"] == "none")
            own = next(arm for arm in arms if which(arm) == which(entry))
            found.append((shape(result), full, own, entry))
    return found


def which(entry: Record) -> tuple[Any, ...]:
    """What tells an arm from the others of its batch and length."""
    return entry["method"], entry["budget"], entry.get("tower_keep")


def shape(result: Record) -> str:
    """``llava-1.5-7b, 4 of 32 layers``, or a name alone."""
    about = result["provenance"]
    name, measures = about["config"]["random"], about["shape"]
    if measures is None:
        return f"`{about['config']['model'] or 'demo'}`"
    layers, whole = measures["language"][0], measures["of_layers"]
    return f"`{name}`" if layers == whole else f"`{name}`, {layers} of {whole} layers"


def seconds(spread: Record | None) -> str:
    return "" if spread is None else f"{spread['median']:.3g} s"


def share(value: Record | None, digits: int = 2) -> str:
    return "" if value is None else f"{100 * value['median']:.{digits}f} %"


def factor(value: Record | None) -> str:
    """0.245 (0.240 to 0.251)."""
    return "" if value is None else f"{value['median']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB"


def note(record: Record) -> str:
    """How it was measured."""
    config, arm = record["results"][0]["provenance"], record["results"][0]["arms"][0]
    runs = arm["end_to_end_s"]["runs"]
    text = f", {config['config']['text_tokens']} text tokens" if config["shape"] else ""
    return (
        f"Random weights, {config['dtype']}{text}, seed {config['seed']}; medians of {runs} runs, all arms in turn; ratios are "
        "medians over rounds with their 95 % interval."
    )


def prefill(record: Record) -> Rows:
    header = [
        "shape",
        "image tokens",
        "prefill, full",
        "prefill",
        "time ratio (95 %)",
        "FLOP ratio",
        "time / FLOPs (95 %)",
    ]
    header += ["end to end, full", "end to end", "time ratio (95 %)"]
    rows = []
    for name, full, own, entry in pairs(record):
        rows.append([name, f"{own['image_tokens']:.0f} of {full['image_tokens']:.0f}", seconds(full["prefill_s"])])
        rows[-1] += [seconds(own["prefill_s"]), factor(entry["prefill_s"]), f"{entry['prefill_flops']:.3f}"]
        rows[-1] += [factor(entry["prefill_time_over_flops"]), seconds(full["end_to_end_s"])]
        rows[-1] += [seconds(own["end_to_end_s"]), factor(entry["end_to_end_s"])]
    return header, rows, note(record)


def added(record: Record) -> Rows:
    header = ["shape", "whole request", "text tower", "scoring and choosing", "shortening"]
    header += ["all added, new question", "all added, known question"]
    rows = []
    for name, _, own, _ in pairs(record):
        parts = [seconds(own["stages_s"][part]) for part in ("text", "select", "shrink")]
        both = [share(own["added_share"][key]) for key in ("cold", "warm")]
        rows.append([name, seconds(own["end_to_end_s"]), *parts, *both])
    return header, rows, note(record)


def second(record: Record) -> Rows:
    header = [
        "shape",
        "arm",
        "first question",
        "second question",
        "second / first (95 %)",
        "pictures a second, both asked",
    ]
    rows = []
    for name, full, own, _ in pairs(record):
        for title, arm in (("all tokens", full), (f"`{own['method']}`, {own['image_tokens']:.0f} tokens", own)):
            asked, rate = arm["second_question"], arm["throughput"]["images_per_s_all_questions"]
            cells = [name, title, seconds(arm["end_to_end_s"]), seconds(asked["end_to_end_s"])]
            rows.append([*cells, factor(asked["over_first"]), f"{rate['median']:.3g}"])
    return header, rows, note(record)


def memory(record: Record) -> Rows:
    header = ["shape", "batch", "peak, full", "peak, reduced", "saved", "saved by formula", "measured / formula"]
    rows = []
    for result in record["results"]:
        for entry in result["memory"]:
            cells = [megabytes(entry[key]) for key in ("full_peak_bytes", "reduced_peak_bytes", "saved_bytes")]
            cells.append(megabytes(entry["predicted_saved_bytes"]))
            rows.append([shape(result), str(entry["batch_size"]), *cells, f"{entry['saved_over_predicted']:.2f}"])
    how = record["results"][0]["arms"][0]["peak_measured"]
    return header, rows, f"Bytes above the idle model at their most (`{how}`). {note(record)}"


def claim(record: Record) -> Rows:
    header = ["shape", "new tokens", "fewer image tokens", "time, full", "time", "less time (95 %)"]
    header += ["less memory, weights left out", "less memory, weights included", "smaller KV cache"]
    rows, deep = [], False
    for name, full, own, entry in pairs(record):
        times = [own["end_to_end_s"], full["end_to_end_s"], entry["end_to_end_s"]]
        memories = [entry[key] for key in ("peak_bytes", "peak_with_weights_bytes", "kv_bytes")]
        if own["extrapolated"] is not None:
            deep = True
            memories[:2] = [entry["extrapolated"].get(key) for key in ("peak_bytes", "peak_with_weights_bytes")]
            times = [own["extrapolated"]["end_to_end_s"], full["extrapolated"]["end_to_end_s"]]
            times.append(entry["extrapolated"]["end_to_end_s"])
            name = f"{name}, **extrapolated**"
        less = times[2]
        saved = f"{less_percent(less['median'])} ({less_percent(less['high'])} to {less_percent(less['low'])})"
        cells = [
            name,
            str(own["new_tokens"]),
            less_percent(entry["image_tokens"]),
            seconds(times[1]),
            seconds(times[0]),
            saved,
        ]
        rows.append([*cells, *["" if each is None else less_percent(each) for each in memories]])
    ending = (
        " Extrapolated figures are for all layers: each missing one takes the time of a measured one, and adds its weights "
        "and its part of the KV cache to the measured memory."
    )
    return header, rows, note(record) + (ending if deep else "")


def tower(record: Record) -> Rows:
    header = [
        "patches in the tower's later layers",
        "vision tower",
        "end to end",
        "time ratio to all tokens (95 %)",
        "speed-up",
    ]
    rows = []
    for number, (_, full, own, entry) in enumerate(pairs(record)):
        if number == 0:
            rows.append(["stock model", seconds(full["stages_s"]["vision"]), seconds(full["end_to_end_s"]), "1", "1"])
        kept = own.get("tower_keep")
        name = "all, `trim`" if kept is None else f"{100 * kept:.0f} %, `trim`"
        ratio = entry["end_to_end_s"]
        cells = [name, seconds(own["stages_s"]["vision"]), seconds(own["end_to_end_s"]), factor(ratio)]
        rows.append([*cells, f"{1 / ratio['median']:.2f} x"])
    return header, rows, f"{shape(record['results'][0])}. {note(record)}"


def rivals(record: Record) -> Rows:
    header = [
        "method",
        "image tokens",
        "end to end",
        "time ratio (95 %)",
        "choosing adds",
        "peak above idle",
        "KV cache",
    ]
    rows = []
    for number, (_, full, own, entry) in enumerate(pairs(record)):
        for arm in [full, own] if number == 0 else [own]:
            stock = arm is full
            cells = ["stock model" if stock else f"`{arm['method']}`", f"{arm['image_tokens']:.0f}"]
            cells += [seconds(arm["end_to_end_s"]), "1" if stock else factor(entry["end_to_end_s"])]
            cells.append("" if stock else share(arm["added_share"]["cold"]))
            rows.append([*cells, megabytes(arm["peak_bytes"]), megabytes(arm["kv_bytes"])])
    return header, rows, f"{shape(record['results'][0])}. {note(record)}"


def less_percent(ratio: float) -> str:
    """0.33 as 67 %."""
    return f"{100 * (1 - ratio):.0f} %"


def _table(make: Callable[[Record], Rows]) -> Callable[[Record], str]:
    def text(record: Record) -> str:
        header, rows, about = make(record)
        return f"{table(header, rows)}\n\n{about}"

    return text


MAKERS: dict[str, tuple[str, Callable[[Record], Rows]]] = {
    "bench": ("bench_prefill", prefill),
    "bench-prefill-7b": ("bench_prefill_7b", prefill),
    "bench-added": ("bench_added", added),
    "bench-second-question": ("bench_second_question", second),
    "bench-memory": ("bench_memory", memory),
    "bench-claim": ("bench_claim", claim),
    "bench-tower": ("bench_tower", tower),
    "bench-rivals": ("bench_rivals", rivals),
}
"""Name of the table: name of the experiment, and what makes it."""

TABLES = {name: made_of(experiment, _table(make)) for name, (experiment, make) in MAKERS.items()}
