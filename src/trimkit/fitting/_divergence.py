"""How far a choice of image tokens takes the model from what it says with all of them, along the full model's answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimkit.calibration import Values
from trimkit.core.types import EncoderProfile, ImageTokens
from trimkit.fitting._prompts import answer_logp, as_float, kept_embeddings
from trimkit.fitting._records import PairRecord, RecordStore
from trimkit.methods import Method
from trimkit.models import Family, family_of
from trimkit.pipeline.encoding import with_projected
from trimkit.pipeline.selecting import select_tokens

__all__ = ["Ranking", "Reader", "divergence"]

Ranking = Callable[[Sequence[ImageTokens], Sequence[PairRecord]], Sequence[Tensor]]
"""Pictures and questions to ``[N]`` relevance each, higher = keep."""

_ROWS = {"cpu": 8}  # prompts a call; 32 on other devices


def divergence(logp: Tensor, likely: Tensor, tokens: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the reduced model from the full one in nats, mean over the answer's tokens.

    Args:
        logp: ``[T, V]`` of the reduced model.
        likely, tokens: ``[T, M]`` log-probabilities of the full model's likeliest tokens; all others count as one.

    Returns:
        A scalar.
    """
    tokens = tokens.long().to(logp.device)
    likely = likely.to(logp.device).float()
    found = logp.gather(1, tokens)
    share = likely.exp()
    same = (share * (likely - found)).sum(dim=1)
    rest, left = (1.0 - share.sum(dim=1)).clamp(min=1e-6), (1.0 - found.exp().sum(dim=1)).clamp(min=1e-6)
    rest_term = rest * (rest.log() - left.log()) if logp.shape[1] > tokens.shape[1] else torch.zeros_like(rest)
    return (same + rest_term).mean()


class Reader:
    """Asks a model with some of its image tokens.

    Args:
        model: the model.
        store: records.
    """

    def __init__(self, model: Any, store: RecordStore) -> None:
        self.model, self.store = model, store
        self.family: Family = family_of(model)
        self.device: torch.device = model.device
        self.dtype: torch.dtype = next(model.parameters()).dtype

    def batch(self, pairs: Sequence[tuple[int, int]]) -> tuple[list[ImageTokens], list[PairRecord]]:
        """Pictures, on the device and in the dtype of the model, and questions of ``pairs``."""
        records = [self.store.get(number) for number, _ in pairs]
        images = as_float([record.image for record in records], self.dtype, self.device)
        return images, [record.pairs[i] for record, (_, i) in zip(records, pairs, strict=True)]

    @torch.no_grad()
    def measure(self, pairs: Sequence[tuple[int, int]], rank: Ranking, method: Method) -> tuple[Values, Values]:
        """``[pairs]`` divergence, and whether every token of the answer stays the likeliest (1 or 0)."""
        profile = method.profile or EncoderProfile(sign=1)
        far, same = [], []
        rows_a_call = _ROWS.get(self.device.type, 32)
        for start in range(0, len(pairs), rows_a_call):
            images, questions = self.batch(pairs[start : start + rows_a_call])
            relevance = [row.to(self.device).float() for row in rank(images, questions)]
            seen = with_projected(self.family, self.model, images, method.asked_signals)
            chosen = select_tokens(seen, relevance, [each.question for each in questions], method, profile)
            embeddings, kept = kept_embeddings(self.family, self.model, images, chosen)
            prompts = [each.prompt for each in questions]
            rows = answer_logp(self.family, self.model, prompts, chosen, embeddings, kept)
            for row, pair in zip(rows, questions, strict=True):
                far.append(float(divergence(row, pair.logp, pair.tokens)))
                same.append(float((row.argmax(dim=1).cpu() == pair.tokens[:, 0]).all()))
        return np.array(far), np.array(same)
