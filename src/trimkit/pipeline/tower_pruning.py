"""Dropping patches inside the vision tower: those that look irrelevant midway are not computed to its end.

After TRIM the tower is what takes longest. Its states in the middle are read as the final features are (post-layernorm and
projection, against the question); the patches of highest relevance and those around them go on, and the usual choice is made
among them at the end. An estimate: what it costs depends on the tower and is to be measured, so it is off unless asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from trimkit.core import functional as F
from trimkit.core.types import ImageTokens, Selection
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import ChoosingMethod, Method
from trimkit.models import Family, ModelInputs
from trimkit.pipeline.image_queries import query_rounds
from trimkit.pipeline.media import ImageQueries
from trimkit.pipeline.selecting import make_batch, relevance_of
from trimkit.scorers import Scorer

__all__ = ["TowerPruning", "only_alive", "refuse_unranked", "tower_pruning"]

_DEPTH = 0.4  # of the layers see all patches, unless said otherwise


@dataclass(frozen=True)
class TowerPruning:
    """How many layers see all patches, and the share of the patches that goes on."""

    layer: int
    keep: float

    def arguments(self) -> ModelInputs:
        """For the encoder, beside its own."""
        return {"stop_after": self.layer}

    def alive(
        self, images: Sequence[ImageTokens], queries: Sequence[ImageQueries], method: Method, scorer: Scorer
    ) -> list[Tensor]:
        """``[N]`` bool for each image: the patches most relevant to its question, or to any of several.

        All patches of an image without a question.

        Raises:
            ConfigError: the budget keeps more tokens than are left.
            UnsupportedError: the scorer looks at pixels.
        """
        if getattr(scorer, "needs_views", False):
            raise UnsupportedError(
                "tower_keep= reads the tower's own features and this scorer looks at pixels: leave one of them out"
            )
        every = [torch.ones(len(image), dtype=torch.bool) for image in images]
        asked = [i for i, each in enumerate(queries) if each[0] is not None]
        found = self._best([images[i] for i in asked], [queries[i] for i in asked], method, scorer)
        return [found[asked.index(i)] if i in asked else each for i, each in enumerate(every)] if found else every

    def _best(
        self, images: Sequence[ImageTokens], queries: Sequence[ImageQueries], method: Method, scorer: Scorer
    ) -> list[Tensor]:
        """``alive`` of images with questions; nothing where the method ranks by none."""
        best: Tensor | None = None
        profile = method.profile or scorer.profile
        for round_ in query_rounds(queries) if images else ():
            batch = make_batch(images, relevance_of(images, round_, method, scorer), round_, profile)
            signed = method.signed_relevance(batch)
            if signed is not None:
                best = signed if best is None else torch.maximum(best, signed)
        if best is None:
            return []
        return [self._highest(row[: len(image)], image.grid, method) for row, image in zip(best, images, strict=True)]

    def _highest(self, relevance: Tensor, grid: tuple[int, int] | None, method: Method) -> Tensor:
        total = len(relevance)
        count = max(round(self.keep * total), 1)
        fixed = method.budget.kind in ("ratio", "count") and method.share != "prompt"
        if fixed and method.budget.tokens(total) > count:
            raise ConfigError(
                f"budget {method.budget} keeps more than the {count} of {total} patches that tower_keep={self.keep} leaves: "
                "raise the one or lower the other"
            )
        return F.count_select(_widened(relevance, grid)[None], count)[0]


def _widened(relevance: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """Each patch as relevant as the most relevant one around it: so early, one patch of a thing may be known, the next not."""
    if grid is None:
        return relevance
    known = relevance.nan_to_num(nan=float("-inf"))
    return max_pool2d(known.view(1, *grid), 3, stride=1, padding=1).flatten()


def refuse_unranked(method: Method) -> None:
    """Refuse a method that chooses by more than the question; what keeps everything drops nothing in the tower either.

    Raises:
        ConfigError: that.
    """
    if not method.keeps_all and (not method.uses_text or method.asked_signals or isinstance(method, ChoosingMethod)):
        raise ConfigError(
            f"tower_keep= ranks patches by the question alone, which method {method.name!r} does not do: choose one that does, "
            "such as 'trim'"
        )


def tower_pruning(
    family: Family, model: Any, method: Method, keep: float | None, layer: int | None
) -> TowerPruning | None:
    """What ``tower_keep`` and ``tower_layer`` of ``trimkit.reduce`` ask for; None where every patch goes through.

    Raises:
        ConfigError: a share or a layer that cannot be, or a method that does not rank by the question.
        UnsupportedError: the family's tower runs in one piece.
    """
    if keep is None:
        if layer is not None:
            raise ConfigError(f"tower_layer={layer} drops nothing without tower_keep=: give for example tower_keep=0.5")
        return None
    if not 0.0 < keep <= 1.0:
        raise ConfigError(f"tower_keep={keep} is outside (0, 1]: give the share of patches that goes on")
    if method.keeps_all or keep == 1.0:
        return None
    last = family.tower_layers(model)
    if not last:
        raise UnsupportedError(f"the vision tower of {type(model).__name__} runs in one piece: leave tower_keep= out")
    refuse_unranked(method)
    chosen = max(round(_DEPTH * last), 1) if layer is None else layer
    if not 1 <= chosen < last:
        raise ConfigError(f"tower_layer={chosen} is outside 1 to {last - 1}: this tower runs {last} layers")
    return TowerPruning(chosen, keep)


def only_alive(image: ImageTokens, selection: Selection) -> Selection:
    """The selection without patches that the tower has dropped (a rule such as top-p may reach for them)."""
    if image.alive is None:
        return selection
    alive = image.alive.to(selection.indices.device)
    indices = selection.indices[alive[selection.indices]]
    if not len(indices):  # equal scores went to what was dropped
        indices = alive.nonzero().squeeze(1)[:1]
    rest = len(indices) < int(alive.sum())  # else there is nothing left to stand for
    return replace(selection, indices=indices, aggregated=selection.aggregated and rest)
