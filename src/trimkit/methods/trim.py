"""TRIM: keep the patches whose relevance to the question is an outlier, and one mean token for the rest.

Three presets of one rule. They differ in what the paper says, what its code does, and what we measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.types import EncoderProfile, TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._base import Method
from trimkit.methods._published import PublishedAccuracy

__all__ = ["Trim", "TrimPaper", "TrimReleased"]


class Trim(Method):
    """TRIM as we run it: quartiles per image, and the sign, normalisation and temperature of the encoder at hand.

    A score is the softmax over the image's patches of ``sign * similarity / temperature``. The defaults were chosen on the demo
    model (``benchmarks/results/trim_default.json``); for OpenAI's CLIP the profile holds what the released code does.

    Options:
        sign, normalize, temperature: ``auto`` takes the encoder's profile (``trimkit.core.types.EncoderProfile``).
        text: a question beyond the text tower's length is cut in ``chunks`` whose embeddings are averaged, or
            ``truncate``-d as the released code does.
        score: ``softmax`` over the image's patches, or the signed ``similarity`` itself, shifted so that its least is 0: the
            same order, but other quartiles and other mass.
    """

    name: ClassVar[str] = "trim"
    summary: ClassVar[str] = "patches with outlying CLIP relevance to the question + one mean token (our default)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2409.10994"
    published: ClassVar[tuple[PublishedAccuracy, ...]] = (
        PublishedAccuracy({192: 97.1, 128: 95.7, 64: 92.1}, "re-run in HiPrune, arXiv 2508.00553", "2025-08"),
    )
    uses_text: ClassVar[bool] = True

    sign: Literal["auto", 1, -1] = "auto"
    normalize: Literal["auto"] | bool = "auto"
    temperature: Literal["auto"] | float = Field(default="auto")
    aggregate: Literal["mean", "weighted", "none"] = "mean"
    text: Literal["chunks", "truncate"] = "chunks"
    score: Literal["softmax", "similarity"] = "softmax"

    def model_post_init(self, context: object) -> None:
        """Refuse a temperature that is not a positive number."""
        if self.temperature != "auto" and not 0.0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature {self.temperature!r} is not positive: give a number such as 1.0 or 'auto'")

    @property
    def truncates_text(self) -> bool:
        return self.text == "truncate"

    def normalize_relevance(self, profile: EncoderProfile) -> bool:
        return profile.normalize if self.normalize == "auto" else self.normalize

    def signed_relevance(self, batch: TokenBatch) -> Tensor | None:
        signed = batch.signed_relevance(self._resolved_sign(batch))
        return None if signed is None else signed.clone()

    def scores(self, batch: TokenBatch) -> Tensor:
        signed = batch.signed_relevance(self._resolved_sign(batch))
        if signed is None:
            raise ConfigError(f"method {self.name!r} needs text relevance: attach a scorer with a text tower")
        if self.score == "similarity":
            if signed.shape[1] == 0:
                return signed
            lowest = signed.masked_fill(~batch.mask, torch.inf).amin(dim=1, keepdim=True)
            return (signed - lowest).masked_fill(~batch.mask, 0.0)
        temperature = batch.profile.temperature if self.temperature == "auto" else self.temperature
        return F.softmax_scores(signed, batch.padding, temperature)

    def _resolved_sign(self, batch: TokenBatch) -> int:
        return batch.profile.sign if self.sign == "auto" else self.sign


class TrimPaper(Trim):
    """TRIM as the paper's text has it: cosine similarity, high is relevant, quartiles per image."""

    name: ClassVar[str] = "trim-paper"
    summary: ClassVar[str] = "TRIM as the paper's text says: cosine, positive sign"

    sign: Literal["auto", 1, -1] = 1
    normalize: Literal["auto"] | bool = True
    temperature: Literal["auto"] | float = 1.0


class TrimReleased(Trim):
    """TRIM as its released code runs it, quirks included.

    Raw dot product, negated; quartiles of the flattened batch and one count for all images; a fraction counts patches only
    (the aggregated token comes on top); no floor: without an outlier only the aggregated token is left; the question is
    truncated at the text tower's length. Source: github.com/FreedomIntelligence/TRIM, ``clip_encoder.py``.
    """

    name: ClassVar[str] = "trim-released"
    summary: ClassVar[str] = "TRIM bit for bit as its released code: negated dot product, quartiles over the batch"

    sign: Literal["auto", 1, -1] = -1
    normalize: Literal["auto"] | bool = False
    temperature: Literal["auto"] | float = 1.0
    text: Literal["chunks", "truncate"] = "truncate"

    def model_post_init(self, context: object) -> None:
        """Refuse limits that the released code does not have."""
        super().model_post_init(context)
        if self.score != "softmax":
            raise ConfigError(f"method {self.name!r} scores by softmax: leave score out, or use method 'trim'")
        if self.budget.kind == "iqr" and (self.min_tokens, self.max_tokens) != (1, None):
            raise ConfigError(f"method {self.name!r} has no floor and no cap: leave min_tokens and max_tokens out")

    def keep(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        if self.budget.kind == "iqr":
            return F.count_select(scores, F.iqr_count(scores, batch.padding, scope="batch"), batch.padding)
        return super().keep(scores, batch)

    def fixed_counts(self, totals: Sequence[int]) -> list[int] | None:
        return self._patch_counts(totals) if self.budget.kind in ("ratio", "count") else None

    def _patch_counts(self, totals: Sequence[int]) -> list[int]:
        if self.budget.kind == "count":
            return [min(int(self.budget.value), total) for total in totals]
        return [int(total * self.budget.value) for total in totals]

    def _joined(self, kept: int, total: int) -> tuple[bool, bool]:
        return False, self.aggregate != "none" and kept < total
