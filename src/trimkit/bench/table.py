"""A measurement as plain text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["lines"]

_COLUMNS = (
    ("method", 17),
    ("budget", 9),
    ("tokens", 7),
    ("ttft", 10),
    ("prefill", 10),
    ("per token", 10),
    ("end to end", 11),
    ("requests/s", 11),
    ("GFLOPs", 10),
    ("peak", 10),
    ("KV", 10),
)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What the command prints of what ``bench`` gives, line by line."""
    about = found["provenance"]
    name = about["config"]["random"] or about["config"]["model"] or "demo"
    shape = about["shape"]
    depth = "" if shape is None else f", {shape['language'][0]} of {shape['of_layers']} layers"
    yield f"{name}{depth}, {about['dtype']}, {about['hardware']['device']}, {about['threads']} threads"
    cell = None
    for arm in found["arms"]:
        if cell != (arm["batch_size"], arm["new_tokens"]):
            cell = arm["batch_size"], arm["new_tokens"]
            yield ""
            yield f"batch {cell[0]}, {cell[1]} new tokens, medians of {arm['end_to_end_s']['runs']} runs in turn"
            yield _row([title for title, _ in _COLUMNS])
            yield from _arms(found, cell)
            yield from _ratios(found, cell)
    if found["capacity"]:
        yield ""
        for entry in found["capacity"]:
            name = f"{_name({**entry, 'tower_keep': None})} {entry['budget']}, {entry['new_tokens']} new tokens"
            gigabytes = entry["memory_bytes"] / 1e9
            yield f"{gigabytes:g} GB hold a batch of {entry['largest_batch']}, by formula: {name}"


def _arms(found: dict[str, Any], cell: tuple[int, int]) -> Iterator[str]:
    for arm in _of(found["arms"], cell):
        yield _row(
            [
                _name(arm),
                str(arm["budget"]),
                f"{arm['image_tokens']:.0f}",
                _seconds(arm["ttft_s"]),
                _seconds(arm["prefill_s"]),
                _seconds(arm["decode_per_token_s"]),
                _seconds(arm["end_to_end_s"]),
                f"{arm['throughput']['requests_per_s']['median']:.3g}",
                f"{arm['flops'] / 1e9:.2f}",
                f"{arm['peak_bytes'] / 1e6:.1f} MB",
                f"{arm['kv_bytes'] / 1e6:.1f} MB",
            ]
        )


def _ratios(found: dict[str, Any], cell: tuple[int, int]) -> Iterator[str]:
    """One line for each arm: how it compares; then where its time goes."""
    arms = {(_name(arm), str(arm["budget"])): arm for arm in _of(found["arms"], cell)}
    for entry in _of(found["ratios"], cell):
        title = f"{_name(entry)} {entry['budget']}"
        yield (
            f"{title}: end to end x {_interval(entry['end_to_end_s'])}, prefill x {_interval(entry['prefill_s'])}, "
            f"prefill FLOPs x {entry['prefill_flops']:.3f}, quotient {_interval(entry['prefill_time_over_flops'])}"
        )
        arm = arms[_name(entry), str(entry["budget"])]
        shares = ", ".join(f"{name} {share:.1%}" for name, share in arm["stage_shares"].items())
        added = arm["added_share"]
        warm = "" if added["warm"] is None else f", {added['warm']['median']:.2%} with the question known"
        yield f"  {shares}; added {added['cold']['median']:.2%}{warm}"
        if arm["second_question"] is not None:
            yield f"  next question on the same picture: x {_interval(arm['second_question']['over_first'])} of the first"
        if arm["extrapolated"] is not None:
            deep, at = entry["extrapolated"], arm["extrapolated"]
            yield (
                f"  extrapolated to {at['to_layers']} layers: end to end {_seconds(at['end_to_end_s'])}, "
                f"x {_interval(deep['end_to_end_s'])}{_memory(deep.get('peak_with_weights_bytes'))}"
            )
        elif entry["peak_bytes"] is not None and "extrapolated" not in entry:  # else layers are missing
            yield f"  memory of the call x {entry['peak_bytes']:.3f}{_memory(entry['peak_with_weights_bytes'])}"


def _name(entry: dict[str, Any]) -> str:
    name = "full" if entry["method"] == "none" else str(entry["method"])
    name = name if entry["tower_keep"] is None else f"{name}, tower {entry['tower_keep']:g}"
    return name if entry.get("vision_engine") is None else f"{name}, {entry['vision_engine']}"


def _of(entries: list[dict[str, Any]], cell: tuple[int, int]) -> list[dict[str, Any]]:
    return [entry for entry in entries if (entry["batch_size"], entry["new_tokens"]) == cell]


def _row(cells: list[str]) -> str:
    widths = [width for _, width in _COLUMNS]
    first = [f"{cell:<{width}}" for cell, width in zip(cells[:2], widths, strict=False)]
    rest = [f"{cell:>{width}}" for cell, width in zip(cells[2:], widths[2:], strict=True)]
    return " ".join([*first, *rest]).rstrip()


def _seconds(value: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    median = value["median"]
    return f"{median:.3f} s" if median >= 0.1 else f"{1000 * median:.2f} ms"


def _memory(ratio: float | None) -> str:
    return "" if ratio is None else f"; memory with the weights x {ratio:.3f}"


def _interval(value: dict[str, Any] | None) -> str:
    return "-" if value is None else f"{value['median']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
