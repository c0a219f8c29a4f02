"""What the scenes suite is to ask: arms, and the questions of a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trimkit.core.choices import Padding, Positions, check_choice
from trimkit.core.confidence import Fallback
from trimkit.errors import ConfigError
from trimkit.eval.identity import method_identity
from trimkit.eval.journal import fingerprint
from trimkit.eval.question_types import BASIC, check_types
from trimkit.eval.shifts import check_shift
from trimkit.eval.tally import check_arguments
from trimkit.io.provenance import versions
from trimkit.io.text import is_text
from trimkit.methods import Method

__all__ = ["Arm", "Plan"]


@dataclass(frozen=True)
class Arm:
    """One method with its options, the budget as it was asked for (``default`` for the method's own), and when to ask again.

    ``variant`` names options that differ from the method's defaults, as ``sign=auto``, so that both can be in one run.
    """

    method: Method
    asked: str = "default"
    variant: str = ""
    fallback: Fallback | None = None

    @property
    def name(self) -> str:
        """The method's, with its variant: ``trim-released sign=auto``."""
        return f"{self.method.name} {self.variant}".strip()

    @property
    def label(self) -> str:
        """``trim@64``, ``trim``, ``trim-released sign=auto@64``, ``trim@16+fallback``."""
        named = self.name if self.asked == "default" else f"{self.name}@{self.asked}"
        return named if self.fallback is None else f"{named}+fallback"

    @cached_property
    def task(self) -> str:
        """Name in the journal: the same for the same method, options and budget, however they were asked for.

        The method's own code is part of it, so that answers of an earlier version of it are not taken for this one's.
        """
        again = "" if self.fallback is None else f"-{fingerprint(self.fallback.to_plain())}"
        return method_identity(self.method) + again


@dataclass(frozen=True)
class Plan:
    """Which questions are asked of which model.

    Attributes:
        model: ``demo``, a directory or a hub id; each worker loads it for itself.
        seed, n: which questions, how many; question i of a seed is always the same.
        arms: what answers them.
        batch_size: questions per ``generate`` call. ``trim-released`` takes its quartiles over the batch.
        shift: what is done to the pictures, see ``trimkit.eval.shifts``.
        positions: as ``trimkit.reduce`` takes them.
        query: what methods that read the text are given instead of each question, which the model is asked all the same; None
            for the question itself.
        scorer: as ``trimkit.reduce`` takes it: a directory or hub id, None for the model's own.
        padding: as ``trimkit.reduce`` takes it.
        types: of question; they take turns. See ``trimkit.demo.typed_items``.
    """

    model: str
    seed: int
    n: int
    arms: tuple[Arm, ...]
    batch_size: int = 16
    shift: str = "none"
    positions: Positions = "auto"
    device: str = "cpu"
    dtype: str = "auto"
    query: str | None = None
    scorer: str | None = None
    types: tuple[str, ...] = BASIC
    padding: Padding = "keep"

    def check(self) -> None:
        """Refuse what cannot be asked.

        Raises:
            ConfigError: seed, n, batch size, shift, positions, query or types; no arm.
        """
        check_arguments(self.seed, self.n, self.batch_size, self.positions)
        check_types(self.types)
        check_choice("padding", self.padding, Padding)
        check_shift(self.shift)
        if self.query is not None and not self.query.strip():
            raise ConfigError("query '' says nothing: give what patches are to be compared with, or leave it out")
        if self.query is not None and not is_text(self.query):
            raise ConfigError("the query is not UTF-8 text (it holds bytes that are no letters): write it in UTF-8")
        if not self.arms:
            raise ConfigError("there is nothing to compare: give at least one method")

    def of_them(self, indices: Sequence[int]) -> int:
        """How many of these are asked for; the last batch is filled up with more."""
        return sum(index < self.n for index in indices)

    def settings(self, weights: str) -> dict[str, Any]:
        """What has to be equal for an answer to be used again; ``weights`` names the model's."""
        named = {
            name: getattr(self, name)
            for name in ("model", "seed", "batch_size", "shift", "positions", "device", "dtype", "query")
        }
        # What was journalled without one stays valid.
        scorer = {} if self.scorer is None else {"scorer": self.scorer}
        types = {} if self.types == BASIC else {"types": list(self.types)}
        padding = {} if self.padding == "keep" else {"padding": self.padding}
        return {**named, **scorer, **types, **padding, "weights": weights, "versions": versions()}
