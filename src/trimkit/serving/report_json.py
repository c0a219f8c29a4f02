"""What ``"report": true`` gives, in every server: what was kept of each picture, as JSON, and back again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trimkit.core.types import ImageReport, Report, Rung

__all__ = ["image_object", "report_object", "report_of"]


def report_object(
    report: Report | None, boxes: Sequence[Any], *, fallback: bool = False, timed: bool = True
) -> dict[str, Any]:
    """The object ``trim`` of a response.

    Args:
        report: of the request; None where it has no picture.
        boxes: the part of every picture that the model saw, as shares (left, top, right, bottom); None where unknown.
        fallback: whether choosing has failed.
        timed: whether the stages were timed.
    """
    if report is None:
        return {"method": None, "image_tokens_before": 0, "image_tokens": 0, "images": []}
    seconds = {name: round(value, 6) for name, value in asdict(report.seconds).items()} if timed else None
    return {
        "method": report.method,
        "image_tokens_before": report.tokens_before,
        "image_tokens": report.tokens_after,
        "fallback": fallback,
        **({} if seconds is None else {"seconds": seconds}),
        "images": [image_object(image, box) for image, box in zip(report.images, boxes, strict=True)],
        **({"rungs": [_rung(rung) for rung in report.rungs]} if report.rungs else {}),
    }


def report_of(trim: dict[str, Any]) -> Report:
    """The report in a response, as far as it says.

    Raises:
        KeyError, TypeError, ValueError: it says something else.
    """
    import torch

    def numbers(values: Any) -> Any:
        known = None if values is None else [math.nan if value is None else float(value) for value in values]
        return None if known is None else torch.tensor(known)

    images = tuple(
        ImageReport(
            row=0,
            query=entry["query"],
            tokens_before=int(entry["tokens_before"]),
            tokens_after=int(entry["tokens_after"]),
            indices=torch.tensor([int(each) for each in entry["indices"]], dtype=torch.long),
            aggregated=bool(entry["aggregated"]),
            grid=None if entry["grid"] is None else (int(entry["grid"][0]), int(entry["grid"][1])),
            scores=numbers(entry.get("scores")),
            relevance=numbers(entry.get("relevance")),
        )
        for entry in trim["images"]
    )
    return Report(str(trim["method"]), images)


def image_object(image: ImageReport, box: Any = None) -> dict[str, Any]:
    """What it says of one image; ``box`` is the part of the picture that the model saw, as shares of its sides."""
    return {
        "tokens_before": image.tokens_before,
        "tokens_after": image.tokens_after,
        "grid": None if image.grid is None else list(image.grid),
        "indices": image.indices.tolist(),
        "aggregated": image.aggregated,
        "relevance": _numbers(image.relevance),
        "scores": _numbers(image.scores),
        "query": image.query,
        "note": image.note,
        "cached": image.cached,
        "box": None if box is None else [round(float(side), 5) for side in box],
    }


def _rung(rung: Rung) -> dict[str, Any]:
    said = {"budget": rung.budget, "image_tokens": rung.tokens, "stayed": bool(rung.answered)}
    return {**said, "seconds": round(rung.seconds, 6)}


def _numbers(values: Any) -> list[float | None] | None:
    """Six digits each; None for what is no number."""
    if values is None:
        return None
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.float().tolist()]
