"""A request on its way through the engine, and what the engine tells of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trimkit.core.choices import TurnPolicy
from trimkit.core.confidence import Fallback
from trimkit.core.types import Report
from trimkit.methods import Method
from trimkit.serving.server.errors import ApiError
from trimkit.serving.server.sampling import Sampling

__all__ = ["Delta", "Event", "Failed", "Finished", "Job", "Started"]


@dataclass(frozen=True)
class Started:
    """The prompt was run. ``report`` is None where it has no picture; ``fallback`` says that choosing has failed."""

    prompt_tokens: int
    report: Report | None
    fallback: bool = False


@dataclass(frozen=True)
class Delta:
    """More text of the reply."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The end: ``stop`` or ``length``, and how many tokens were generated, the end token included."""

    reason: str
    tokens: int


@dataclass(frozen=True)
class Failed:
    """The end, without a whole reply."""

    error: ApiError


Event = Started | Delta | Finished | Failed


@dataclass
class Job:
    """One reply to be generated.

    Attributes:
        inputs: of the model, ``[1, L]``, as its processor makes them.
        pictures: how many there are.
        method: how they are reduced.
        query: the question, where the request names one; None for what the last turn says.
        turns: which question of a conversation chooses, where the request names none; see ``trimkit.reduce``.
        sampling, stops: how the reply is drawn and ended.
        tokens: the length limit that the request names, None for as many as fit.
        fallback: when the prompt is run again with more image tokens; None for never.
        emit: called by the engine's thread with each event; the last one is ``Finished`` or ``Failed``.
        counted: whether metrics tell of it.
        own_way: whether it is reduced as the server does it, by nothing that the request says.
        cancelled: set by whoever does not want the reply any more; nothing is emitted from then on.
        ids: tokens of the reply so far.
    """

    inputs: Any
    pictures: int
    method: Method
    query: str | None
    turns: TurnPolicy
    sampling: Sampling
    stops: tuple[str, ...]
    tokens: int | None
    emit: Callable[[Event], None]
    fallback: Fallback | None = None
    counted: bool = True
    own_way: bool = True
    cancelled: bool = False
    ids: list[int] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def cancel(self) -> None:
        """Give it up."""
        self.cancelled = True
