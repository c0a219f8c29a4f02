"""Which part of a picture the model sees, found out in the API server: clients draw reports on their own pictures."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from trimkit.ask import seen_boxes
from trimkit.core.types import Report
from trimkit.errors import TrimkitError
from trimkit.serving.vllm.facts import twin_of

__all__ = ["Seen", "picture_sizes"]


def picture_sizes(items: Any) -> list[tuple[int, int] | None]:
    """Width and height in pixels of every picture of a request; None for one given as embeddings or by a ``uuid`` alone.

    Args:
        items: the request's ``mm_data_items``.
    """
    pictures = items.get("image")
    count = getattr(pictures, "get_count", int)()
    return [_size(pictures, number) for number in range(count)]


def _size(pictures: Any, number: int) -> tuple[int, int] | None:
    try:
        size = pictures.get_image_size(number)
    except Exception:  # of whatever kind vLLM's items raise
        return None
    return size.width, size.height


class Seen:
    """Finds boxes as ``trimkit.ask.seen_boxes`` does.

    Args:
        info: vLLM's processing info of the model.
    """

    def __init__(self, info: Any) -> None:
        self._info = info
        self._parts: tuple[Any, Any] | None = None  # the model without weights, and a processor of our own
        self._lock = threading.Lock()

    def boxes_of(self, items: Any) -> Callable[[Report], Sequence[Any]]:
        """What gives the box of every picture of one request; None each where it is not known.

        Args:
            items: the request's ``mm_data_items``.
        """
        sizes = picture_sizes(items)
        if not sizes or None in sizes:
            return lambda report: [None] * len(report.images)
        shown = [SimpleNamespace(size=size) for size in sizes]
        return lambda report: self._boxes(shown, report)

    def _boxes(self, shown: Sequence[Any], report: Report) -> Sequence[Any]:
        try:
            with self._lock:
                if self._parts is None:
                    _, twin = twin_of(self._info.get_hf_config())
                    self._parts = twin, copy.deepcopy(self._info.get_hf_processor())
                found = seen_boxes(*self._parts, shown, report)
        except (TrimkitError, ValueError, RuntimeError, TypeError):
            return [None] * len(report.images)
        return found if len(found) == len(report.images) else [None] * len(report.images)  # pictures in tiles
