"""From pixels and question ids to reduced embeddings as one module without Python in between: what is exported to ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.core import functional as F
from trimkit.core.types import EncoderProfile
from trimkit.engines.choices import Choice, choice_of
from trimkit.engines.relevance import Relevance, relevance_of
from trimkit.errors import UnsupportedError
from trimkit.methods import Method
from trimkit.models import VisionParts, family_of
from trimkit.scorers import Scorer

__all__ = ["Built", "ReducedVision", "reduced_vision"]


class ReducedVision(nn.Module):
    """Tower, relevance, choice and projector.

    Args:
        parts: of the model.
        choice: which patches stay.
        relevance: from features and question ids to raw relevance; None where the method reads no text.
    """

    def __init__(self, parts: VisionParts, choice: Choice, relevance: Relevance | None) -> None:
        super().__init__()
        self.tower, self.projector, self.relevance = parts.tower, parts.projector, relevance
        self._choice = choice

    def forward(
        self, pixel_values: Tensor, question_ids: Tensor | None = None, word_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embeddings and indices.

        Args:
            pixel_values: ``[B, 3, side, side]`` float32.
            question_ids: ``[B, L]`` int64 of the text tower's tokenizer, with its start and end tokens; shorter questions
                filled up with the end token. Of CLIP's relevance.
            word_ids: ``[B, M]`` int64 of a fitted scorer's tokenizer, without such tokens; shorter questions filled up with -1.

        Returns:
            ``[B, k (+ 1), H]`` float32, the aggregated token last, and ``[B, k]`` int64, ascending.
        """
        features = self.tower(pixel_values)
        given = None if self.relevance is None else self.relevance(features, question_ids, word_ids)
        projected = self.projector(features) if self._choice.projects else None
        indices = self._choice.choose(features, given, projected)
        kept = features.gather(1, indices.unsqueeze(2).expand(-1, -1, features.shape[2]))
        if self._choice.aggregated:
            keep = torch.zeros_like(features[..., 0], dtype=torch.bool).scatter(1, indices, True)
            kept = torch.cat([kept, F.aggregate(features, keep).unsqueeze(1)], dim=1)
        return self.projector(kept), indices


@dataclass(frozen=True)
class Built:
    """The module, and what is to be said of its inputs and outputs."""

    module: ReducedVision
    parts: VisionParts
    choice: Choice
    total: int
    width: int


def reduced_vision(model: Any, method: Method, scorer: Scorer | None) -> Built:
    """The module of a model and a method with a fixed budget.

    Args:
        model: a transformers vision-language model in float32 on the CPU; its language model is not used.
        method: what chooses.
        scorer: where relevance comes from; None where the method reads no text.

    Raises:
        UnsupportedError: the model, the method, its budget or the scorer cannot be a graph.
    """
    parts = family_of(model).parts(model)
    if parts is None:
        raise UnsupportedError(
            f"{type(model).__name__} cannot be exported to ONNX: only models with CLIP's vision tower before a projector can "
            "(LLaVA-1.5, VipLLaVA)"
        )
    relevance = None
    profile = method.profile
    if method.needs_relevance and scorer is not None:
        profile = profile or scorer.profile
    with torch.no_grad():
        features = parts.tower(torch.zeros(1, 3, parts.side, parts.side))
        grid = parts.images(features)[0].grid
        choice = choice_of(method, features.shape[1], grid, profile or EncoderProfile())
        width = parts.projector(features[:, :1]).shape[-1]
    if method.needs_relevance:
        normalize = method.normalize_relevance(profile or EncoderProfile())
        relevance = relevance_of(method, scorer, parts, normalize=normalize, grid=grid)
    module = ReducedVision(parts, choice, relevance).eval()
    return Built(module, parts, choice, int(features.shape[1]), int(width))
