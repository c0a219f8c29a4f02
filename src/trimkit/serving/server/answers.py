"""The JSON that goes back: completions, chunks of a stream, usage, and the report of a reduction."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trimkit.core.types import ImageReport, Report, Rung
from trimkit.serving.server.jobs import Finished, Started

__all__ = ["Completion", "event", "report_object", "report_of"]


def event(content: Any) -> bytes:
    """One server-sent event."""
    text = content if isinstance(content, str) else _json(content)
    return f"data: {text}\n\n".encode()


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class Completion:
    """The objects of one reply.

    Args:
        model: as the server calls it.
        started: what is known of its prompt.
        trim: the report that the request asks for, or None.
    """

    def __init__(self, model: str, started: Started, trim: dict[str, Any] | None) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._started, self._trim = started, trim

    def whole(self, text: str, end: Finished) -> dict[str, Any]:
        """``chat.completion``."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end.reason}
        found = {**self._head, "object": "chat.completion", "choices": [choice], "usage": self.usage(end)}
        return found if self._trim is None else {**found, "trim": self._trim}

    def first(self) -> dict[str, Any]:
        """The chunk that begins a stream, with the report."""
        chunk = self._chunk({"role": "assistant", "content": ""})
        return chunk if self._trim is None else {**chunk, "trim": self._trim}

    def piece(self, text: str) -> dict[str, Any]:
        """A chunk with more text."""
        return self._chunk({"content": text})

    def last(self, end: Finished) -> dict[str, Any]:
        """The chunk that says why the reply ends."""
        return self._chunk({}, end.reason)

    def counted(self, end: Finished) -> dict[str, Any]:
        """The chunk with the usage alone."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self.usage(end)}

    def usage(self, end: Finished) -> dict[str, Any]:
        """Tokens; ``prompt_tokens`` are those that the reply was given, ``image_tokens`` among them, and ``image_tokens_tried``
        those of all rungs.
        """
        prompt, report = self._started.prompt_tokens, self._started.report
        details = {
            "cached_tokens": 0,
            "image_tokens": report.tokens_after if report else 0,
            "image_tokens_before": report.tokens_before if report else 0,
        } | ({"image_tokens_tried": report.tokens_tried} if report and report.rungs else {})
        return {
            "prompt_tokens": prompt,
            "completion_tokens": end.tokens,
            "total_tokens": prompt + end.tokens,
            "prompt_tokens_details": details,
        }

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}


def report_object(started: Started, boxes: Sequence[Any]) -> dict[str, Any] | None:
    """What ``"report": true`` gives.

    Args:
        started: of the request.
        boxes: the part of every picture that the model saw, as shares (left, top, right, bottom); None where unknown.
    """
    report = started.report
    if report is None:
        return {"method": None, "image_tokens_before": 0, "image_tokens": 0, "images": []}
    images = [_image(image, box) for image, box in zip(report.images, boxes, strict=True)]
    return {
        "method": report.method,
        "image_tokens_before": report.tokens_before,
        "image_tokens": report.tokens_after,
        "fallback": started.fallback,
        "seconds": {name: round(value, 6) for name, value in asdict(report.seconds).items()},
        "images": images,
    } | ({"rungs": [_rung(rung) for rung in report.rungs]} if report.rungs else {})


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


def _rung(rung: Rung) -> dict[str, Any]:
    said = {"budget": rung.budget, "image_tokens": rung.tokens, "stayed": bool(rung.answered)}
    return {**said, "seconds": round(rung.seconds, 6)}


def _image(image: ImageReport, box: Any) -> dict[str, Any]:
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


def _numbers(values: Any) -> list[float | None] | None:
    """Six digits each; None for what is no number."""
    if values is None:
        return None
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.float().tolist()]
