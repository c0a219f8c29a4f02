"""What ``trimkit encode-server`` tells Prometheus; names that ``trimkit serve`` has too mean the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trimkit.serving.encode.encoder import EncodedPicture
from trimkit.serving.server.metric_set import MetricSet

__all__ = ["EncodeMetrics"]


class EncodeMetrics(MetricSet):
    """Counters of one server.

    Args:
        inside: how many requests are under way.
    """

    def __init__(self, inside: Callable[[], float]) -> None:
        super().__init__()
        self.encoding = self.histogram("encoding_seconds", "Template, tower, choice and projector, a request.")
        self.waiting = self.histogram("encoding_wait_seconds", "Waiting for the encoder, a request.")
        self.upstream = self.counter("upstream_failures", "Engines that did not answer, or broke off.", "when")
        self.watch("requests_inside", "Requests that are read, wait, are encoded or answered.", inside)

    def count(self, pictures: Sequence[EncodedPicture]) -> None:
        """Add the pictures of a request."""
        self.count_pictures(
            pictures=len(pictures),
            cached=sum(picture.cached for picture in pictures),
            before=sum(picture.before for picture in pictures),
            after=sum(picture.after for picture in pictures),
        )
