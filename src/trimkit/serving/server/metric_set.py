"""What every server tells Prometheus: its requests, and the image tokens before and after. One registry a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from trimkit.serving.seconds import LIMITS

__all__ = ["MetricSet"]


class MetricSet:
    """Counters of one server; a subclass adds its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self.counter("requests", "Requests by HTTP status; 499: the client went away.", "status")
        self.image_tokens_before = self.counter("image_tokens_before", "Image tokens that the pictures have.")
        self.image_tokens_after = self.counter("image_tokens_after", "Image tokens that the language model got.")
        self.pictures = self.counter("pictures", "Pictures, those whose features were cached included.")
        self.cache_hits = self.counter("feature_cache_hits", "Pictures that needed no vision tower.")

    def count_pictures(self, pictures: int, cached: int, before: int, after: int) -> None:
        """Add the pictures of a request: how many, how many of them from the cache, and their tokens before and after."""
        self.pictures.inc(pictures)
        self.cache_hits.inc(cached)
        self.image_tokens_before.inc(before)
        self.image_tokens_after.inc(after)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(f"trimkit_{name}", text, registry=self._registry).set_function(read)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """One more counter."""
        return Counter(f"trimkit_{name}", text, labels, registry=self._registry)

    def histogram(self, name: str, text: str) -> Histogram:
        """One more histogram, of seconds."""
        return Histogram(f"trimkit_{name}", text, buckets=LIMITS, registry=self._registry)

    def collect(self) -> Iterable[Metric]:
        """Everything that it has."""
        return self._registry.collect()

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self._registry)
