"""The JSON that goes back: completions, chunks of a stream, usage."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from trimkit.serving.server.jobs import Finished, Started

__all__ = ["Completion", "event"]


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
