"""What ``generate`` is given to be watched and stopped: a streamer that tells text and times, and a stopping criterion."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer

__all__ = ["stopping", "streamer"]

Spoke = Callable[[str, int, float | None], None]


class _Streamer(TextStreamer):
    """Tells the text so far, the number of tokens, and when the first came, by ``time.perf_counter``."""

    def __init__(self, tokenizer: Any, spoke: Spoke) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._spoke = spoke
        self._text, self._tokens = "", 0
        self._first: float | None = None

    def put(self, value: Any) -> None:
        if not self.next_tokens_are_prompt:
            self._tokens += 1
            if self._first is None:
                self._first = time.perf_counter()
        super().put(value)  # type: ignore[no-untyped-call]

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._text += text
        self._spoke(self._text, self._tokens, self._first)


class _Stopped(StoppingCriteria):
    """Ends an answer whose reader has gone."""

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped = stopped

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.full((len(input_ids),), self._stopped.is_set(), dtype=torch.bool, device=input_ids.device)


def streamer(processor: Any, spoke: Spoke) -> Any:
    """For ``generate(streamer=)``; ``spoke`` is called with text, tokens and the time of the first one."""
    return _Streamer(getattr(processor, "tokenizer", processor), spoke)


def stopping(stopped: threading.Event) -> Any:
    """For ``generate(stopping_criteria=)``."""
    return StoppingCriteriaList([_Stopped(stopped)])
