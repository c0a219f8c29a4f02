"""Which part of a picture the model sees, found out in the API server: clients draw reports on their own pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from trimkit.ask import seen_boxes
from trimkit.core.types import Report
from trimkit.errors import TrimkitError
from trimkit.serving.vllm.facts import twin_of

__all__ = ["seen_by"]


def seen_by(info: Any, items: Any) -> Callable[[Report], Sequence[Any]]:
    """What gives the box of every picture of one request, as ``trimkit.ask.seen_boxes`` does; None each where it is not known.

    Args:
        info: vLLM's processing info of the model.
        items: the request's ``mm_data_items``.
    """
    pictures = items["image"]
    try:
        sizes = [pictures.get_image_size(number) for number in range(pictures.get_count())]
    except Exception:  # given as embeddings, or named by a uuid alone
        return lambda report: [None] * len(report.images)
    config = info.get_hf_config()

    def boxes(report: Report) -> Sequence[Any]:
        shown = [SimpleNamespace(size=(size.width, size.height)) for size in sizes]
        try:
            _, twin = twin_of(config)
            return seen_boxes(twin, copy.deepcopy(info.get_hf_processor()), shown, report)
        except (TrimkitError, ValueError, RuntimeError, TypeError):
            return [None] * len(report.images)

    return boxes
