"""DART: inside the language model, a few pivot tokens and the image tokens that repeat them least."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._choosing import ChoosingMethod, cosines, signal

__all__ = ["Dart", "visited"]

_PUBLISHED_LAYER = 2


class Dart(ChoosingMethod):
    """Image tokens go through the first ``layer`` layers; pivots and what differs from them go further.

    1. Pivots: of the image's tokens, and of the text's behind it, those whose keys in layer ``layer - 1`` have the largest L1
       norm (after RoPE, over all heads).
    2. For each pivot in turn: the image tokens that are least similar to it and are not kept yet, as many for each. What is
       compared (cosine) is what the layer gives, through the model's last norm.
    3. Kept: the image's pivots and those tokens. They keep their positions.

    All of this is the published code's (``get_retained_image_token``, the authors' commit at github.com/xqy1111111/DART). So is
    its arithmetic: a budget of 64 gives each of 8 pivots 64 // 8 tokens, and the image's 4 pivots come on top, 68 in all. It
    visits pivots in the order in which CPython iterates a set of their places in the prompt, and so does this.

    Options:
        layer: how many layers see all tokens; ``auto`` is the published 2, or all but the last where the model has no more.
        image_pivots, text_pivots: how many of each.
        count: ``released`` as above; ``budget`` keeps as many tokens as the budget says, pivots among them.
    """

    name: ClassVar[str] = "dart"
    summary: ClassVar[str] = "DART, inside the language model: pivots by key norm and the tokens that repeat them least"
    paper: ClassVar[str] = "https://arxiv.org/abs/2502.11494"
    stage: ClassVar[Literal["tower", "llm"]] = "llm"
    signals: ClassVar[frozenset[str]] = frozenset(
        {"llm_keys", "llm_states", "llm_places", "llm_text_keys", "llm_text_states", "llm_text_places"}
    )

    budget: BudgetField = Budget("count", 64)
    layer: Literal["auto"] | int = "auto"
    image_pivots: int = Field(default=4, ge=0)
    text_pivots: int = Field(default=4, ge=0)
    count: Literal["released", "budget"] = "released"

    def model_post_init(self, context: object) -> None:
        """Refuse a layer, or pivots, that cannot be."""
        if self.layer != "auto" and (isinstance(self.layer, bool) or self.layer < 1):
            raise ConfigError(
                f"layer {self.layer!r} is not possible: one layer at least sees all tokens, give 1 or more"
            )
        if self.image_pivots + self.text_pivots == 0:
            raise ConfigError("there are no pivots: give image_pivots or text_pivots")

    def first_short_layer(self, layers: int) -> int:
        return max(1, min(_PUBLISHED_LAYER, layers - 1)) if self.layer == "auto" else self.layer

    def fixed_tokens(self, total: int) -> int:
        tokens = self.budget.tokens(total)
        pivots = self.image_pivots + self.text_pivots
        if self.count == "budget" or self.keeps_all or tokens == total:
            return tokens
        return min(max(tokens // pivots * pivots + self.image_pivots, min(total, 1)), total)

    def quality(self, image: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, image, "llm_keys").float().abs().sum(dim=-1))[0]

    def pivots(self, image: TokenBatch, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Which of the image's tokens and which of the text's are pivots, each by falling norm."""
        norms = self._text(image, "llm_text_keys").float().abs().sum(dim=-1)
        own = torch.sort(scores, descending=True, stable=True).indices[: min(self.image_pivots, count)]
        return own, torch.sort(norms, descending=True, stable=True).indices[: self.text_pivots]

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        own, text = self.pivots(image, scores, count)
        states = torch.cat([signal(self, image, "llm_states")[0], self._text(image, "llm_text_states")])
        places = torch.cat([signal(self, image, "llm_places")[0], self._text(image, "llm_text_places")])
        leads = torch.cat([own, text + len(scores)])
        leads = leads[visited(places[leads].tolist())]
        similar = cosines(states)[leads][:, : len(scores)]
        kept = torch.zeros_like(scores, dtype=torch.bool)
        kept[own] = True
        left, turns = count - len(own), max(len(leads), 1)
        for turn, row in enumerate(similar):
            share = (turn + 1) * left // turns - turn * left // turns
            kept = kept | F.count_select((-row).masked_fill(kept, -torch.inf).unsqueeze(0), share)[0]
        return kept.nonzero().squeeze(1)

    def _text(self, image: TokenBatch, name: str) -> Tensor:
        """A signal of the text behind the image ``[M, ...]``.

        Raises:
            ConfigError: the image has none.
        """
        if name not in image.signals:
            raise ConfigError(
                f"method {self.name!r} ranks inside the language model: call the model within trimkit.reduce"
            )
        return image.signals[name][0]


def visited(places: list[int]) -> list[int]:
    """In which order pivots at ``places`` in the prompt are visited: that of a Python set, as numbers into ``places``."""
    order = list(set(places).copy())
    return [places.index(place) for place in order]
