"""What ``/metrics`` tells Prometheus: requests, tokens before and after, where the time goes. One registry a server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from trimkit.core.types import Report

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by HTTP status; 499: the client went away.", "status")
        self.image_tokens_before = self._counter("image_tokens_before", "Image tokens that the pictures have.")
        self.image_tokens_after = self._counter("image_tokens_after", "Image tokens that the language model got.")
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens as run.")
        self.generated_tokens = self._counter("generated_tokens", "Tokens generated.")
        self.pictures = self._counter("pictures", "Pictures, those whose features were cached included.")
        self.cache_hits = self._counter("feature_cache_hits", "Pictures that needed no vision tower.")
        self.fallbacks = self._counter(
            "fallbacks", "Requests whose tokens were taken at equal distances after a failure."
        )
        self.choosing = self._histogram("choosing_seconds", "Text encoding, choosing and shortening, a request.")
        self.vision = self._histogram("vision_seconds", "Vision tower, a request.")
        self.first_token = self._histogram("time_to_first_token_seconds", "From the whole request to the first token.")
        self.duration = self._histogram("request_seconds", "From the whole request to the end of the reply.")

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(f"trimkit_{name}", text, registry=self._registry).set_function(read)

    def count_reduction(self, report: Report) -> None:
        """Add what one request's reduction did."""
        seconds = report.seconds
        self.image_tokens_before.inc(report.tokens_before)
        self.image_tokens_after.inc(report.tokens_after)
        self.pictures.inc(len(report.images))
        self.cache_hits.inc(sum(image.cached for image in report.images))
        self.choosing.observe(seconds.text + seconds.select + seconds.shrink)
        self.vision.observe(seconds.vision)

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"trimkit_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"trimkit_{name}", text, buckets=_SECONDS, registry=self._registry)
