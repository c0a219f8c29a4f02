"""What ``trimkit encode-server`` counts, in Prometheus's form; each server has a registry of its own."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from trimkit.serving.encode.encoder import EncodedPicture

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters, gauges and histograms of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        mine = {"registry": self.registry}
        self.requests = Counter("trimkit_encode_requests", "Chat requests by HTTP status.", ["status"], **mine)
        self.tokens_before = Counter("trimkit_encode_image_tokens_before", "Image tokens without reduction.", **mine)
        self.tokens_after = Counter("trimkit_encode_image_tokens_after", "Image tokens sent to the engine.", **mine)
        self.images = Counter("trimkit_encode_images", "Pictures encoded.", **mine)
        self.cached = Counter("trimkit_encode_tower_cache_hits", "Pictures whose features were held.", **mine)
        self.seconds = Histogram(
            "trimkit_encode_seconds", "Tower, choice and projector of a request.", buckets=_SECONDS, **mine
        )
        self.wait = Histogram("trimkit_encode_wait_seconds", "Waiting for the encoder.", buckets=_SECONDS, **mine)
        self.waiting = Gauge("trimkit_encode_requests_in_progress", "Requests that are worked on or wait.", **mine)
        self.broken = Counter(
            "trimkit_encode_upstream_failures", "Engines that did not answer, or broke off.", ["when"], **mine
        )

    def count(self, pictures: Sequence[EncodedPicture]) -> None:
        """Add the pictures of a request."""
        self.images.inc(len(pictures))
        self.cached.inc(sum(picture.cached for picture in pictures))
        self.tokens_before.inc(sum(picture.before for picture in pictures))
        self.tokens_after.inc(sum(picture.after for picture in pictures))

    def text(self) -> bytes:
        """What ``/metrics`` says."""
        return generate_latest(self.registry)
