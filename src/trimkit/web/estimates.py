"""What fewer image tokens are worth on a device: ``trimkit advise`` in the page, and what was measured beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimkit.advice.advise import Question, advise
from trimkit.advice.devices import DEVICES, device_of
from trimkit.advice.model import model_of
from trimkit.bench.shapes import SHAPES
from trimkit.web.markup import escaped, seconds_text, table

__all__ = ["device_names", "estimate", "measured_table", "shape_names"]

_MEASURED = Path(__file__).parent / "measured.json"


def shape_names() -> list[str]:
    """Models whose arithmetic is known, the tiny ones of tests left out."""
    return [name for name in SHAPES if not name.startswith(("small", "clip-"))]


def device_names() -> list[tuple[str, str]]:
    """Devices with published figures: how they are shown, and their names."""
    return [(device.name, name) for name, device in DEVICES.items()]


def estimate(
    model: str, device: str, share: float, pictures: int, new_tokens: int, clients: int, *, compiled: bool
) -> str:
    """A verdict and a table of budgets, as HTML.

    Args:
        model, device: names of ``shape_names`` and ``device_names``.
        share: of the image tokens to keep, 0 to 1.
        pictures: of each request.
        new_tokens: length of the answer.
        clients: requests answered together.
        compiled: whether prefill and decoding are compiled.

    Raises:
        ConfigError: a number out of range.
    """
    shape, place = model_of(model), device_of(device)
    tokens = min(max(round(share * shape.image_tokens), 1), shape.image_tokens)
    found = advise(
        Question(
            shape=shape,
            device=place,
            dtype=next(iter(place.rates)),
            tokens=tokens,
            pictures=int(pictures),
            new_tokens=int(new_tokens),
            clients=int(clients),
            compiled=compiled,
        )
    )
    return _shown(found)


def measured_table() -> str:
    """Measured times of the repository's own results, as HTML."""
    record = json.loads(_MEASURED.read_text(encoding="utf-8"))
    rows = [
        [
            each["what"],
            each["method"],
            f"{each['tokens']} of {each['tokens_full']}",
            f"{seconds_text(each['first_full_s'])} → {seconds_text(each['first_s'])}",
            f"{each['whole_full_s'] / each['whole_s']:.2f} ×",
            each["on"],
            each["source"],
        ]
        for each in record["rows"]
    ]
    header = [
        "shape (random weights)",
        "method",
        "image tokens",
        "first token",
        "whole answer",
        "measured on",
        "result file",
    ]
    return table(header, rows, "Measured: first token and whole answer, full model against reduced")


def _shown(found: dict[str, Any]) -> str:
    request, memory = found["request"], found["memory"]
    kept = f"{request['tokens']} image tokens"
    stages = [
        [name, seconds_text(value), seconds_text(found["reduced"]["stages_s"][name])]
        for name, value in found["full"]["stages_s"].items()
    ]
    for title, key in (("first token", "first_token_s"), ("whole request", "seconds")):
        stages.append([title, seconds_text(found["full"][key]), seconds_text(found["reduced"][key])])
    stages.append(["memory", *(f"{memory[f'{name}_bytes'] / 1e9:.1f} GB" for name in ("full", "reduced"))])
    stages.append(["requests that fit", *(str(memory[f"{name}_most"]) for name in ("full", "reduced"))])
    budgets = [
        [str(each["tokens"]), seconds_text(each["seconds"]), f"{each['speedup']:.2f} ×", str(each["most_requests"])]
        for each in found["budgets"]
    ]
    helps = "tk-good" if found["helps"] else "tk-warn"
    return (
        f'<p class="{helps}" role="status">{escaped(found["verdict"])}</p>'
        + table(
            ["stage", f"all {found['model']['image_tokens']} tokens", kept], stages, "Predicted time of one request"
        )
        + table(["image tokens", "seconds", "speed-up", "fit at once"], budgets, "Predicted, by token budget")
        + "<p class='tk-dim'>Arithmetic on the maker's published figures, not a measurement. For your own machine run "
        "<code>trimkit advise --device here</code>.</p>"
    )
