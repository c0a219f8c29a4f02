"""Prometheus metrics beside vLLM's own, in the API server. With several API servers vLLM shows only its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from typing import Any

from trimkit.serving.vllm.engine_counts import Counts, left_by

__all__ = ["EngineCollector", "show_metrics"]

_TEXTS = {
    "tokens_before": ("image_tokens_before", "Image tokens of pictures before reduction."),
    "tokens_after": ("image_tokens_after", "Image tokens that the language model got for them."),
    "pictures_encoded": ("pictures_encoded", "Pictures that ran through the vision tower."),
    "pictures_held": ("pictures_held", "Pictures whose tower features were held from an earlier question."),
    "choosing_seconds": ("choosing_seconds", "Seconds spent on relevance and on choosing tokens."),
    "fallbacks": ("fallbacks", "Images whose tokens were taken at equal distances because choosing failed."),
}


class EngineCollector:
    """Reads what the engines of this server have left, whenever it is asked."""

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily

        total = Counts()
        for counts in left_by(_family_of_processes()):
            for name in _TEXTS:
                setattr(total, name, getattr(total, name) + getattr(counts, name))
        for field, (name, text) in _TEXTS.items():
            yield CounterMetricFamily(f"trimkit_{name}", text, value=getattr(total, field))


def show_metrics() -> None:
    """Add them to the process's registry, once."""
    global _shown
    if not _shown:
        from prometheus_client import REGISTRY

        _shown = True
        REGISTRY.register(EngineCollector())


_shown = False


def _family_of_processes() -> list[int]:
    """This server's processes: those below it, or below what has started it."""
    import psutil

    parent = multiprocessing.parent_process()
    root = os.getpid() if parent is None or parent.pid is None else parent.pid
    try:
        return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.Error:
        return []
