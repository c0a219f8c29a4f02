"""What a method is: it scores image tokens (higher = keep), and the base class turns scores into a selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.transfer import rows_of, upload
from trimkit.core.types import EncoderProfile, Selection, TokenBatch
from trimkit.errors import ConfigError

__all__ = ["Method", "keep_all", "on_device", "single"]


def keep_all(batch: TokenBatch) -> list[Selection]:
    """Every token of every image, nothing aggregated."""
    every = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    return [Selection(indices=every[:total], total=total) for total in batch.totals]


def single(batch: TokenBatch, row: int) -> TokenBatch:
    """One image of a batch, without padding: a method that looks at one at a time gets the same numbers in any batch."""
    return batch.part([row], batch.totals[row])


class Method(BaseModel):
    """Base of all methods. A subclass sets the class attributes and overrides ``scores``; its fields are its options.

    Class attributes:
        name: what ``--method`` takes.
        summary: one line for the catalogue.
        paper: link of the source.
        uses_text: whether ``TokenBatch.relevance`` is needed.
        stage: ``tower`` where tokens go before the language model, ``llm`` where they go after some of its layers.
        signals: what it needs from the vision tower beside features: ``cls_attention``, ``keys``.

    Options:
        budget: how many tokens stay, see ``trimkit.core.budget``.
        aggregate: one more token for all that was dropped: their ``mean``, ``weighted`` by score, or ``none``.
        min_tokens, max_tokens: floor and cap on the patches kept per image where the budget decides per image.
        share: whether the budget is for each ``image``, or one for all images of a ``prompt``, which are then ranked together
            (tiles, several pictures, videos; each keeps at least one token). A video is one image, whose frames are ranked
            together; with ``frame`` each of its frames is one, which keeps at least one token.
        profile: how the encoder's similarity is to be read, not what its checkpoint says; ``trimkit calibrate`` finds it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    uses_text: ClassVar[bool] = False
    stage: ClassVar[Literal["tower", "llm"]] = "tower"
    signals: ClassVar[frozenset[str]] = frozenset()

    budget: BudgetField = Budget("iqr")
    aggregate: Literal["mean", "weighted", "none"] = "none"
    min_tokens: int = Field(default=1, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    share: Literal["image", "frame", "prompt"] = "image"
    profile: EncoderProfile | None = None

    def scores(self, batch: TokenBatch) -> Tensor:
        """``[B, N]`` float scores, higher = keep."""
        raise NotImplementedError

    def mixing(self, image: TokenBatch, indices: Tensor) -> Tensor | None:
        """``[k, N]`` rows of a method that merges (see ``Selection.mixing``) for what it keeps of one image, else None.

        Args:
            image: the image alone, B = 1, without padding.
            indices: ``[k]`` ascending, fewer than N.
        """
        return None

    def first_short_layer(self, layers: int) -> int:
        """Of a method inside a language model of that many ``layers``: the first, counted from 0, that sees fewer tokens."""
        raise NotImplementedError

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is dropped whatever the image."""
        return self.budget.keeps_all

    @property
    def prunes_llm(self) -> bool:
        """Whether this method, with its options, drops tokens inside the language model."""
        return self.stage == "llm" and not self.keeps_all

    @property
    def needs_relevance(self) -> bool:
        """Whether this method, with its options, reads the text at all."""
        return self.uses_text and not self.keeps_all

    def tokens(self, total: int) -> int | None:
        """How many tokens the language model gets for an image of ``total``, where that is known before the image is seen.

        The aggregated token is counted. For a method of ``stage`` ``llm`` it is what the layers behind its cut see. A method
        whose count follows from more than its budget overrides this.

        Args:
            total: tokens of the image without reduction, 0 or more.

        Returns:
            The number, at most ``total``; None where it is decided per image (``iqr``, ``top-p``), or where images of a
            prompt or frames of a video share a budget (``share``).
        """
        if self.keeps_all:
            return total
        if self.budget.kind not in ("ratio", "count") or self.share != "image":
            return None
        patches = self._patch_counts([total])[0]
        return patches + int(self.aggregate != "none" and self._fits(patches, total))

    def normalize_relevance(self, profile: EncoderProfile) -> bool:
        """Whether the scorer is to give cosines instead of dot products."""
        return profile.normalize

    @property
    def truncates_text(self) -> bool:
        """Whether a question beyond the text tower's length is cut instead of read in chunks."""
        return False

    def signed_relevance(self, batch: TokenBatch) -> Tensor | None:
        """``[B, N]`` relevance with the encoder's sign applied, higher = more relevant; for reports and pictures."""
        return None if batch.relevance is None else F.sanitize(batch.relevance * batch.profile.sign, batch.mask)

    def select(self, batch: TokenBatch) -> list[Selection]:
        """Choose the tokens of every image of a batch; a row's result does not depend on the other rows.

        Waits for the device at most once, for the counts, and not at all where ``fixed_counts`` knows them.
        """
        if self.keeps_all:
            return keep_all(batch)
        batch = replace(batch, lengths=batch.totals)
        scores = self.scores(batch)
        keep, counts = self._kept(scores, batch)
        if counts is None or self._may_be_negative:
            counts = self._fetched(keep, scores)
        indices = rows_of(F.places(keep, max(counts, default=0)), counts)
        relevance = self.signed_relevance(batch)
        unpadded = [None if each is None else rows_of(each, batch.totals) for each in (scores, relevance)]
        chosen = [
            self._pack(at, total, *(None if rows is None else rows[row] for rows in unpadded))
            for row, (at, total) in enumerate(zip(indices, batch.totals, strict=True))
        ]
        return [self._mixed(selection, batch, row) for row, selection in enumerate(chosen)]

    def keep(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        """``[B, N]`` bool: the budget applied to the scores."""
        floor, cap = self.min_tokens, self.max_tokens
        if self.budget.kind == "iqr":
            return F.iqr_select(scores, batch.padding, min_tokens=floor, max_tokens=cap)
        if self.budget.kind == "top-p":
            return F.top_p_select(scores, self.budget.value, batch.padding, min_tokens=floor, max_tokens=cap)
        return F.count_select(scores, on_device(self._patch_counts(batch.totals), batch.mask), batch.padding)

    def fixed_counts(self, totals: Sequence[int]) -> list[int] | None:
        """How many patches ``keep`` leaves of images of ``totals`` tokens, where that is known before it is called.

        The host then need not wait for the device to count. A method that overrides ``keep`` may override this, too.

        Returns:
            A number for each image, at most its total; None where it is decided per image.
        """
        fixed = self.budget.kind in ("ratio", "count") and type(self).keep is Method.keep
        return self._patch_counts(totals) if fixed else None

    def _kept(self, scores: Tensor, batch: TokenBatch) -> tuple[Tensor, list[int] | None]:
        """What ``keep`` gives, and how many that is of each image, where the host knows it."""
        return self.keep(scores, batch), self.fixed_counts(batch.totals)

    @property
    def _may_be_negative(self) -> bool:
        """Whether scores are weights of the aggregated token though the method was not made for that."""
        return self.aggregate == "weighted" and type(self).model_fields["aggregate"].default != "weighted"

    def _fetched(self, keep: Tensor, scores: Tensor) -> list[int]:
        """How many are kept of each image, from the device: the one wait of a choice.

        Raises:
            ConfigError: weights that would be negative.
        """
        counts, negative = torch.stack([keep.sum(dim=1), (scores < 0).sum(dim=1)]).tolist()
        if self._may_be_negative and any(negative):
            raise ConfigError(f"method {self.name!r} has negative scores: use aggregate='mean' or 'none'")
        return list(counts)

    def _mixed(self, selection: Selection, batch: TokenBatch, row: int) -> Selection:
        """With the rows of a method that merges, unless every token stays."""
        if type(self).mixing is Method.mixing or len(selection.indices) == selection.total:
            return selection
        return replace(selection, mixing=self.mixing(single(batch, row), selection.indices))

    def _patch_counts(self, totals: Sequence[int]) -> list[int]:
        """Patches of a fixed budget: one place is the aggregated token's, unless all or a single one is kept."""
        counts = []
        for total in totals:
            tokens = self.budget.tokens(total)
            room = self.aggregate != "none" and 1 < tokens < total
            counts.append(tokens - 1 if room else tokens)
        return counts

    def _fits(self, kept: int, total: int) -> bool:
        """Whether there is something to aggregate and the budget has room for the token."""
        return kept < (self.budget.tokens(total) if self.budget.kind in ("ratio", "count") else total)

    def _pack(self, indices: Tensor, total: int, scores: Tensor | None, relevance: Tensor | None) -> Selection:
        """The selection of one image of ``total`` tokens."""
        return Selection(
            indices=indices,
            total=total,
            aggregated=self.aggregate != "none" and self._fits(len(indices), total),
            scores=scores,
            relevance=relevance,
            weights=scores if self.aggregate == "weighted" else None,
        )


def on_device(counts: Sequence[int], like: Tensor) -> Tensor | int:
    """Counts for ``count_select`` beside ``like``: a number where all are the same."""
    return counts[0] if len(set(counts)) == 1 else upload(counts, like.device)
