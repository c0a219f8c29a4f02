"""README's one table: what fewer image tokens do to speed and to accuracy, all tokens beside TRIM and random patches."""

from __future__ import annotations

from benchmarks.cells import table
from benchmarks.records import Record, load, source

__all__ = ["TABLES", "home"]

SPEED, ACCURACY, GPU = "bench_added", "demo_scenes", "gpu"
GPU_TOKENS = 5
METHODS = ("none", "trim", "random")


def home() -> str:
    """A row a quantity: time and KV cache of the 7B shape, time on a GPU if one was measured, accuracy of the demo model."""
    speed, accuracy = load(SPEED), load(ACCURACY)
    if speed is None or accuracy is None:
        missing = SPEED if speed is None else ACCURACY
        return f"*Not measured yet: `python -m benchmarks.run {missing}` writes `benchmarks/results/{missing}.json`.*"
    gpu = load(GPU)
    on_gpu = [] if gpu is None else _gpu_rows(gpu)
    rows = [*_speed_rows(speed), *on_gpu, *_accuracy_rows(accuracy)]
    also = f"GPU: five new tokens, eager. {source(GPU, gpu)} " if gpu is not None and on_gpu else ""
    note = (
        f"Speed: random weights, one request, one new token. {also}"
        "Accuracy: the small demo model, which says nothing about LLaVA-7B. "
        f"{_sources(speed, accuracy)}"
    )
    return f"{table(['', 'all tokens', '`trim`', '`random`, same count'], rows)}\n\n{note}"


def _sources(speed: Record, accuracy: Record) -> str:
    """One line where both were measured alike, else two."""
    first, second = source(SPEED, speed), source(ACCURACY, accuracy)
    shared = first.removeprefix(f"Source: `benchmarks/results/{SPEED}.json`")
    if second.endswith(shared):
        return f"Sources: `benchmarks/results/{SPEED}.json`, `{ACCURACY}.json`{shared}"
    return f"{first} {second}"


def _speed_rows(record: Record) -> list[list[str]]:
    result = next(each for each in record["results"] if each["provenance"]["config"]["random"] == "llava-1.5-7b")
    full, own = result["arms"][:2]
    ratio = result["ratios"][0]
    first, kv = ratio["ttft_s"]["median"], ratio["kv_bytes"]
    tokens = [f"{arm['image_tokens']:.0f}" for arm in (full, own)]
    times = [f"{full['ttft_s']['median']:.1f} s", f"{own['ttft_s']['median']:.1f} s ({100 * (1 - first):.0f}% less)"]
    caches = [f"{full['kv_bytes'] / 2**20:.0f} MiB", f"{own['kv_bytes'] / 2**20:.0f} MiB ({100 * (1 - kv):.0f}% less)"]
    return [
        ["LLaVA-1.5-7B's shape: image tokens", *tokens, ""],
        ["time to first token, one CPU core", *times, ""],
        ["KV cache", *caches, ""],
    ]


def _gpu_rows(record: Record) -> list[list[str]]:
    """One request, where nothing is gained, and the largest batch."""
    parts = [part for part in record["steps"]["shapes"]["parts"] if "bench" in part]
    found = {}
    for part in parts:
        for entry in part["bench"]["ratios"]:
            if part["settings"]["random"] == "llava-1.5-7b" and entry["new_tokens"] == GPU_TOKENS:
                found[entry["batch_size"]] = (entry, part["bench"]["arms"])
    rows = []
    for batch in sorted({min(found), max(found)} if found else ()):
        entry, arms = found[batch]
        both = [next(arm for arm in arms if arm["method"] == name) for name in ("none", "trim")]
        spent = entry["end_to_end_s"]
        less = f"{100 * (1 - spent['median']):.0f}% less"
        told = "no difference" if spent["low"] <= 1 <= spent["high"] else less
        times = [f"{arm['end_to_end_s']['median']:.3f} s" for arm in both]
        rows.append([f"whole call, one {_name(record)}, batch {batch}", times[0], f"{times[1]} ({told})", ""])
    return rows


def _name(record: Record) -> str:
    return str(record["provenance"]["hardware"]["device"]).removeprefix("NVIDIA ").split()[0]


def _accuracy_rows(record: Record) -> list[list[str]]:
    arms = [arm for arm in record["results"] if "--budget" not in arm["command"]]
    picked = [next(arm for arm in arms if arm["method"] == name) for name in METHODS]
    tokens = [f"{arm['image_tokens_kept_mean']:.0f}" for arm in picked]
    return [
        ["demo model: image tokens", *tokens],
        [f"right answers of {picked[0]['n']} (95% interval)", *[_right(arm) for arm in picked]],
        ["reading a sign", *[f"{100 * arm['accuracy_by_type']['reading']:.1f}%" for arm in picked]],
    ]


def _right(arm: Record) -> str:
    low, high = arm["ci95"]
    return f"{100 * arm['accuracy']:.1f}% ({100 * low:.1f} to {100 * high:.1f})"


TABLES = {"home": home}
