"""How a scorer is fitted: numbers that a user may set, and what cannot be."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from trimkit.errors import ConfigError

__all__ = [
    "ADDED",
    "ATTENTION_STEPS",
    "BUDGETS",
    "COMPARED",
    "LAYER_PAIRS",
    "LOOKED_AT",
    "MINIMUM_PICTURES",
    "RACE",
    "TARGETS",
    "TEMPERATURES",
    "FitSettings",
]

TARGETS = ("attention", "answer")
"""What the scorer is to predict: where the language model looks, or what leaves its answer as it is. See ``docs/fit.md``."""

BUDGETS = (1 / 9, 1 / 18, 1 / 36)
"""Shares of the image tokens at which scorers are compared: 64, 32 and 16 of 576."""

ATTENTION_STEPS = 10
"""Steps of ``attention`` for each of ``answer``. Kinds of pictures that are rare among the user's need many: on the demo model
with a tenth of pages, six thousand steps keep twice as many of their answers as nine hundred."""

RACE = 6
"""A set of rows of attention is tried with the steps of ``attention`` divided by this: six sets take as many steps again."""

TEMPERATURES = (0.5, 1.0, 2.0)
"""What relevance is divided by, tried one after the other."""

ADDED = (0.25, 0.5, 1.0, 2.0)
"""Times the relevance that a network builds on, which are tried on top of what it has learned."""

LOOKED_AT = 192
"""Held-out questions, at most, that early stopping goes by."""

COMPARED = 384
"""Held-out questions, at most, by which a target, a temperature and what is added are preferred: few hard ones make most of the
difference."""

LAYER_PAIRS = 192
"""Questions, at most, on which layers are compared. A few of them, hard ones, make most of the difference."""

MINIMUM_PICTURES = 40
"""With fewer, the pictures held out are too few to decide anything."""


@dataclass(frozen=True)
class FitSettings:
    """What can be set.

    Attributes:
        per_picture: questions of each picture, at most.
        max_new_tokens: length of the answers that the model gives.
        steps: of training for ``answer``, at most; early stopping may end it before. ``attention`` gets ten times as many,
            since they take no pass through the language model.
        batch: pairs a step.
        learning_rate: of AdamW at its highest; it rises over the first steps and falls along a cosine. ``answer_rate`` is that
            of the second target, whose gradients are rougher.
        targets: which are tried, in this order; ``answer`` goes on from what ``attention`` has found.
        shares: smallest and largest share of the image tokens that ``answer`` draws its budgets from.
        every: steps between two looks at the held-out pictures; after each, the state is saved.
        patience: looks without progress before a target is given up.
        width: of the network; None takes the widest that stays within ``most_share``.
        most_share: parameters, as a share of the vision tower's.
        cache_gb: what the features, answers and attention of all pictures may take on disk, in GB (1e9 bytes).
        seed: of the split, the batches, the budgets and the intervals.
    """

    per_picture: int = 3
    max_new_tokens: int = 8
    steps: int = 600
    batch: int = 16
    learning_rate: float = 3e-3
    answer_rate: float = 5e-4
    targets: tuple[str, ...] = TARGETS
    shares: tuple[float, float] = (1 / 72, 1 / 6)
    every: int = 100
    patience: int = 4
    width: int | None = None
    most_share: float = 0.02
    cache_gb: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: a number out of range, or an unknown target.
        """
        for name in ("per_picture", "max_new_tokens", "steps", "batch", "every", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} leaves nothing to do: give 1 or more")
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets:
            raise ConfigError(f"targets {', '.join(self.targets) or 'none'}: choose among {', '.join(TARGETS)}")
        if not 0.0 < self.shares[0] <= self.shares[1] < 1.0:
            raise ConfigError(f"shares {self.shares} are not two shares in ascending order: give for example 0.02,0.2")
        if (
            not min(self.learning_rate, self.answer_rate) > 0.0
            or not 0.0 < self.cache_gb < 1e9
            or not 0.0 < self.most_share <= 1.0
        ):
            raise ConfigError(
                "learning_rate, answer_rate, cache_gb and most_share must be above 0 (and most_share at most 1)"
            )
        if self.width is not None and not 1 <= self.width <= 64:
            raise ConfigError(f"width {self.width} is not possible: give 1 to 64")
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed} is negative: give 0 or more")

    def of_target(self, target: str) -> FitSettings:
        """With the steps of a target, and as many looks."""
        if target != "attention":
            return self
        return replace(self, steps=self.steps * ATTENTION_STEPS, every=self.every * ATTENTION_STEPS)

    def of_race(self) -> FitSettings:
        """With the steps that a set of rows of attention is tried with, and two looks."""
        steps = max(1, self.steps * ATTENTION_STEPS // RACE)
        return replace(self, steps=steps, every=max(1, steps // 2))

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
