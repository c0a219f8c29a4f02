"""What ``trimkit encode-server`` tells Prometheus; names that ``trimkit serve`` has too mean the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from trimkit.serving.encode.encoder import EncodedPicture

__all__ = ["EncodeMetrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class EncodeMetrics:
    """Counters of one server.

    Args:
        inside: how many requests are under way.
    """

    def __init__(self, inside: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by HTTP status; 499: the client went away.", "status")
        self.image_tokens_before = self._counter("image_tokens_before", "Image tokens that the pictures have.")
        self.image_tokens_after = self._counter("image_tokens_after", "Image tokens that the language model got.")
        self.pictures = self._counter("pictures", "Pictures, those whose features were cached included.")
        self.cache_hits = self._counter("feature_cache_hits", "Pictures that needed no vision tower.")
        self.encoding = self._histogram("encoding_seconds", "Template, tower, choice and projector, a request.")
        self.waiting = self._histogram("encoding_wait_seconds", "Waiting for the encoder, a request.")
        self.upstream = self._counter("upstream_failures", "Engines that did not answer, or broke off.", "when")
        text = "Requests that are read, wait, are encoded or answered."
        Gauge("trimkit_requests_inside", text, registry=self._registry).set_function(inside)

    def count(self, pictures: Sequence[EncodedPicture]) -> None:
        """Add the pictures of a request."""
        self.pictures.inc(len(pictures))
        self.cache_hits.inc(sum(picture.cached for picture in pictures))
        self.image_tokens_before.inc(sum(picture.before for picture in pictures))
        self.image_tokens_after.inc(sum(picture.after for picture in pictures))

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"trimkit_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"trimkit_{name}", text, buckets=_SECONDS, registry=self._registry)
