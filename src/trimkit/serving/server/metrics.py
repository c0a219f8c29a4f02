"""What ``/metrics`` of ``trimkit serve`` tells Prometheus: requests, tokens before and after, where the time goes."""

from __future__ import annotations

from trimkit.core.types import Report
from trimkit.serving.server.metric_set import MetricSet

__all__ = ["Metrics"]


class Metrics(MetricSet):
    """Counters of one server."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt_tokens = self.counter("prompt_tokens", "Prompt tokens as run.")
        self.generated_tokens = self.counter("generated_tokens", "Tokens generated.")
        self.fallbacks = self.counter(
            "fallbacks", "Requests whose tokens were taken at equal distances after a failure."
        )
        self.asked_again = self.counter("asked_again", "Requests whose prompt was run again with more image tokens.")
        self.rechecked = self.counter(
            "rechecked", "Replies that were asked again with all image tokens, to be compared."
        )
        self.changed = self.counter("changed", "Of those, replies that are another one with all image tokens.")
        self.choosing = self.histogram("choosing_seconds", "Text encoding, choosing and shortening, a request.")
        self.vision = self.histogram("vision_seconds", "Vision tower, a request.")
        self.first_token = self.histogram("time_to_first_token_seconds", "From the whole request to the first token.")
        self.duration = self.histogram("request_seconds", "From the whole request to the end of the reply.")

    def count_prompt(self, tokens: int, report: Report | None, *, failed: bool) -> None:
        """Add what one request's prompt took on all rungs, and what its reduction did; ``failed``: choosing has."""
        self.prompt_tokens.inc(tokens)
        if report is None:
            return
        self.fallbacks.inc(int(failed))
        seconds, cached = report.seconds, sum(image.cached for image in report.images)
        self.count_pictures(len(report.images), cached, report.tokens_before, report.tokens_tried)
        self.asked_again.inc(int(len(report.rungs) > 1))
        self.choosing.observe(seconds.text + seconds.select + seconds.shrink)
        self.vision.observe(seconds.vision)
