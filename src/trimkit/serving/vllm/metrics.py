"""Prometheus metrics beside vLLM's own, in the API server. With several API servers vLLM shows only its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from typing import Any

from trimkit.serving.vllm.engine_counts import Counts, left_by

__all__ = ["EngineCollector", "show_metrics"]

_TEXTS = {
    "image_tokens_before": "Image tokens that the pictures have.",
    "image_tokens_after": "Image tokens that the language model got.",
    "pictures": "Pictures, those whose features were cached included.",
    "feature_cache_hits": "Pictures that needed no vision tower.",
    "fallbacks": "Images whose tokens were taken at equal distances because choosing failed.",
}


class EngineCollector:
    """Reads what the engines of this server have left, whenever it is asked. Names are those of ``trimkit serve``."""

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        total = Counts()
        for counts in left_by(_family_of_processes()):
            total.merge(counts)
        for name, text in _TEXTS.items():
            yield CounterMetricFamily(f"trimkit_{name}", text, value=getattr(total, name))
        choosing = total.choosing_seconds
        yield HistogramMetricFamily(
            "trimkit_choosing_seconds", "Relevance and choice, a picture.", choosing.cumulated(), choosing.total
        )


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
