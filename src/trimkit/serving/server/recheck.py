"""Does a promise still hold? A random share of the replies is asked for again with all image tokens, in the background."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from trimkit.attach.ladder import everything
from trimkit.errors import ConfigError
from trimkit.serving.server.jobs import Event, Failed, Finished, Job
from trimkit.serving.server.metrics import Metrics

__all__ = ["Recheck", "Watch"]

_MOST_WAITING = 4  # a busy server does not pile them up

_log = logging.getLogger(__name__)


class Watch(Protocol):
    """What is told of every comparison; ``trimkit.calibration.DriftMonitor`` is one."""

    risk: float

    @property
    def lower(self) -> float:
        """The true share of changed replies is at least this, at all times together."""

    def update(self, changed: bool) -> bool:
        """One more comparison; returns whether the promise was seen to be broken."""


class Recheck:
    """Compares greedy replies with what the model says with all image tokens.

    Such a request waits its turn like others, is counted in no other metric, and nobody waits for it. Replies that are sampled,
    have no picture, were reduced by nothing or in a way of the request's own are not compared: they say nothing of the promise.

    Args:
        share: of the replies, above 0, at most 1.
        watch: is told of every comparison.
        submit: takes a job to be run.
        metrics: counts.
        compared: tokens of a reply that the promise is about; None for all.
        seed: of the draw; None for one that nobody knows.

    Raises:
        ConfigError: no such share.
    """

    def __init__(
        self,
        share: float,
        watch: Watch,
        submit: Callable[[Job], None],
        metrics: Metrics,
        compared: int | None = None,
        seed: int | None = None,
    ) -> None:
        if not 0.0 < share <= 1.0:
            raise ConfigError(f"recheck {share!r} is no share of the replies: give for example 0.01")
        self._share, self._watch, self._submit, self._metrics = share, watch, submit, metrics
        self._compared = compared
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._waiting = 0
        self._warned = False
        metrics.watch("changed_share_least", "Lower bound of the share of changed replies.", lambda: watch.lower)
        metrics.watch("promise_broken", "1 once more replies change than was promised.", lambda: float(self._warned))

    def offer(self, job: Job) -> None:
        """A reply that is whole; perhaps it is asked for again."""
        compared = job.pictures and job.sampling.temperature == 0 and job.own_way and not job.method.keeps_all
        if not compared or not job.ids or self._random.random() >= self._share:
            return
        with self._lock:
            if self._waiting >= _MOST_WAITING:
                return
            self._waiting += 1
        said = job.ids[: self._compared]
        again = replace(
            job,
            method=everything(),
            fallback=None,
            tokens=len(said),
            counted=False,
            cancelled=False,  # the reply is closed
            ids=[],
            since=time.monotonic(),
            emit=lambda event: self._heard(event, said, again),
        )
        self._submit(again)

    def _heard(self, event: Event, said: list[int], again: Job) -> None:
        if not isinstance(event, Finished | Failed):
            return
        with self._lock:
            self._waiting -= 1
            if isinstance(event, Failed):
                return
            changed = again.ids != said
            self._metrics.rechecked.inc()
            self._metrics.changed.inc(int(changed))
            broken = self._watch.update(changed)
            tell, self._warned = broken and not self._warned, broken or self._warned
        if tell:
            _log.warning(
                "more replies change than the promised %.3g %%: at least %.3g %%; calibrate again on pictures of today",
                self._watch.risk * 100,
                self._watch.lower * 100,
            )
