"""Methods that drop tokens at several layers inside the language model, a fixed number at each."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._base import Method

__all__ = ["PUBLISHED_DEPTH", "StagedMethod"]

PUBLISHED_DEPTH = 32  # layers of the language model (Vicuna-7B) that published layers are of


class StagedMethod(Method):
    """Base of methods that cut at several layers. A subclass says how many tokens each cut leaves, and scores.

    Class attributes:
        published_layers: the layers, in a language model of 32, that are each the first to see fewer tokens.
    """

    stage: ClassVar[Literal["tower", "llm"]] = "llm"
    published_layers: ClassVar[tuple[int, ...]]
    fixed_budget: ClassVar[bool] = True
    aggregates: ClassVar[bool] = False

    layers: Literal["auto"] | tuple[int, ...] = "auto"
    renumber: bool = False

    def model_post_init(self, context: object) -> None:
        """Refuse what these methods do not do."""
        if self.layers != "auto" and len(self.layers) not in self.possible:
            raise ConfigError(
                f"layers {list(self.layers)}: method {self.name!r} cuts at {len(self.published_layers)} layers, give so many, "
                f"for example {list(self.published_layers)}"
            )

    @property
    def possible(self) -> range:
        """How many layers may be named."""
        return range(len(self.published_layers), len(self.published_layers) + 1)

    @property
    def stages(self) -> int:
        """How many cuts there are."""
        return len(self.published_layers if self.layers == "auto" else self.layers)

    @abstractmethod
    def left(self, stage: int, total: int, now: int) -> int:
        """How many of ``now`` tokens a cut leaves, of an image that had ``total`` at first."""

    def cuts(self, layers: int) -> tuple[int, ...]:
        if self.layers != "auto":
            return self.layers
        if layers >= PUBLISHED_DEPTH:
            return self.published_layers
        return tuple(max(1, min(round(at * layers / PUBLISHED_DEPTH), layers - 1)) for at in self.published_layers)

    @property
    def renumbers(self) -> bool:
        return self.renumber

    def tokens(self, total: int) -> int | None:
        if self.keeps_all or self.share != "image":
            return total if self.keeps_all else None
        now = total
        for stage in range(self.stages):
            now = self.after(stage, total, now)
        return now

    def after(self, stage: int, total: int, now: int) -> int:
        """Tokens behind a cut, those made there among them."""
        return self.left(stage, total, now)

    def keep(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        if batch.layer is None:
            raise self.outside()
        stage, totals = batch.layer.stage, batch.layer.totals
        pairs = zip(totals, batch.mask.sum(dim=1).tolist(), strict=True)
        counts = [self.left(stage, total, now) for total, now in pairs]
        return F.count_select(scores, torch.tensor(counts, device=scores.device), batch.mask)

    def outside(self) -> ConfigError:
        """The error of a method that is asked where there is no language model."""
        return ConfigError(
            f"method {self.name!r} ranks by the language model's attention: call the model within trimkit.reduce"
        )
