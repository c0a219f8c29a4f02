"""What a method is: it scores image tokens (higher = keep), and the base class turns scores into a selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, field_validator
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.auto_budget import auto_counts
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.tower_plan import TowerPlan
from trimkit.core.transfer import rows_of
from trimkit.core.types import EncoderProfile, Selection, TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._images import keep_all, on_device, single
from trimkit.methods._in_language_model import InLanguageModel
from trimkit.methods._kept import Kept
from trimkit.methods._published import PublishedAccuracy

__all__ = ["Method"]


class Method(InLanguageModel):
    """Base of all methods. A subclass sets the class attributes and overrides ``scores``; its fields are its options.

    Class attributes:
        name: what ``--method`` takes.
        summary: one line for the catalogue.
        paper: link of the source.
        published: relative accuracy that others have measured, see ``PublishedAccuracy``; empty where none is known here.
        deterministic: whether the same picture and question always keep the same tokens.
        uses_text: whether it reads the question.
        reads_relevance: whether it reads the question as ``TokenBatch.relevance``, which a scorer gives; else it asks for a
            signal such as ``words``.
        stage: ``tower`` where tokens go before the language model, ``llm`` where they go after some of its layers.
        signals: what it needs beside features, by name: ``cls_attention``, ``projected``, ``received@9`` (see
            ``trimkit.core.signals``). Where options have a say, override ``asked_signals``.
        fixed_budget: whether the budget has to be a fraction or a number: nothing else can decide how many tokens stay.
        aggregates: whether there can be a token for all that was dropped.

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
    published: ClassVar[tuple[PublishedAccuracy, ...]] = ()
    deterministic: ClassVar[bool] = True
    uses_text: ClassVar[bool] = False
    reads_relevance: ClassVar[bool] = True
    stage: ClassVar[Literal["tower", "llm"]] = "tower"
    signals: ClassVar[frozenset[str]] = frozenset()
    fixed_budget: ClassVar[bool] = False
    aggregates: ClassVar[bool] = True

    budget: BudgetField = Budget("iqr")
    aggregate: Literal["mean", "weighted", "none"] = "none"
    min_tokens: int = Field(default=1, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    share: Literal["image", "frame", "prompt"] = "image"
    profile: EncoderProfile | None = None

    @field_validator("budget")
    @classmethod
    def _takes(cls, budget: Budget) -> Budget:
        if cls.fixed_budget and budget.kind not in ("ratio", "count"):
            raise ConfigError(f"method {cls.name!r} needs a fixed budget: give a fraction or a number, not {budget}")
        return budget

    @field_validator("aggregate")
    @classmethod
    def _makes(cls, aggregate: str) -> str:
        if not cls.aggregates and aggregate != "none":
            raise ConfigError(f"method {cls.name!r} makes no aggregated token: give aggregate='none'")
        return aggregate

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

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is dropped whatever the image."""
        return self.budget.keeps_all

    @property
    def keeps_class_token(self) -> bool:
        """Whether one of the tokens is the vision tower's class token, where there is room for more than one."""
        return False

    @property
    def prunes_llm(self) -> bool:
        """Whether this method, with its options, drops tokens inside the language model."""
        return self.stage == "llm" and not self.keeps_all

    @property
    def needs_question(self) -> bool:
        """Whether this method, with its options, reads the text at all."""
        return self.needs_relevance or (self.uses_text and not self.keeps_all)

    @property
    def needs_relevance(self) -> bool:
        """Whether this method, with its options, reads a scorer's relevance."""
        return self.uses_text and self.reads_relevance and not self.keeps_all

    @property
    def asked_signals(self) -> frozenset[str]:
        """The signals that this method, with its options, needs; none where it keeps everything."""
        return frozenset() if self.keeps_all else self.signals

    @property
    def tower_plan(self) -> TowerPlan | None:
        """How this method changes the way of a picture through the vision tower; None where it does not."""
        return None

    @property
    def fits_engines(self) -> bool:
        """Whether a serving engine that computes features itself can use it, with these options.

        That is: tokens go before the language model, their number is known before the image, and nothing is asked for but
        features, tokens behind the projector, and relevance.
        """
        plain = self.asked_signals <= {"projected"} and (self.reads_relevance or not self.uses_text)
        known = self.tokens(576) is not None
        return self.stage == "tower" and plain and known and not self.keeps_class_token and self.tower_plan is None

    def words(self, question: str) -> str:
        """The part of a question whose tokens' input embeddings are the signal ``words``."""
        return question

    def tokens(self, total: int) -> int | None:
        """How many tokens the language model gets for an image of ``total``, where that is known before the image is seen.

        The aggregated and the class token are counted. For a method of ``stage`` ``llm`` it is what the layers behind its cut
        see. A method whose count follows from more than its budget overrides this.

        Args:
            total: tokens of the image without reduction, 0 or more.

        Returns:
            The number, at most ``total``; None where it is decided per image, or images or frames share a budget (``share``).
        """
        if self.keeps_all:
            return total
        if self.budget.kind not in ("ratio", "count") or self.share != "image":
            return None
        patches = self._patch_counts([total])[0]
        return patches + sum(self._joined(patches, total))

    def normalize_relevance(self, profile: EncoderProfile) -> bool:
        """Whether the scorer is to give cosines instead of dot products."""
        return profile.normalize

    @property
    def truncates_text(self) -> bool:
        """Whether a question beyond the text tower's length is cut instead of read in chunks."""
        return False

    @property
    def cuts_text(self) -> bool:
        """Whether a question beyond the text tower's length is cut to segments, whose similarities are averaged."""
        return False

    def signed_relevance(self, batch: TokenBatch) -> Tensor | None:
        """``[B, N]`` relevance with the encoder's sign applied, higher = more relevant; for reports and pictures. A copy."""
        signed = batch.signed_relevance(batch.profile.sign)
        return None if signed is None else signed.clone()

    def select(self, batch: TokenBatch) -> list[Selection]:
        """Choose the tokens of every image of a batch; a row's result does not depend on the other rows. One wait at most."""
        if self.keeps_all:
            return keep_all(batch)
        batch = batch if batch.lengths is not None else replace(batch, lengths=batch.totals)
        scores = self.scores(batch)
        kept = self._kept(scores, batch)
        asked = self._fetched(kept.keep, scores) if kept.counts is None or self._may_be_negative else []
        indices, orders = kept.places(asked if kept.counts is None else kept.counts)
        signed, totals = self.signed_relevance(batch), batch.totals
        told = [None if each is None else rows_of(each, totals) for each in (scores, signed)]
        chosen = []
        for row, (at, total) in enumerate(zip(indices, totals, strict=True)):
            chosen.append(self._pack(at, total, *(None if rows is None else rows[row] for rows in (orders, *told))))
        return [self._finished(each, batch, row) for row, each in enumerate(chosen)]

    def keep(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        """``[B, N]`` bool: the budget applied to the scores."""
        floor, cap = self.min_tokens, self.max_tokens
        if self.budget.kind == "iqr":
            return F.iqr_select(scores, batch.padding, min_tokens=floor, max_tokens=cap)
        if self.budget.kind == "auto":
            return F.count_select(scores, auto_counts(scores, batch, self.budget.value, floor, cap), batch.padding)
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

    def _kept(self, scores: Tensor, batch: TokenBatch) -> Kept:
        """What ``keep`` gives, and how many that is of each image, where the host knows it."""
        counts, plain = self.fixed_counts(batch.totals), batch.padding is None and type(self).keep is Method.keep
        if counts and plain and len(set(counts)) == 1 and not self._may_be_negative:
            return Kept(batch.mask, counts, F.ranking(scores)[:, : counts[0]])  # what `keep` would mark
        return Kept(self.keep(scores, batch), counts)

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

    def finish(self, image: TokenBatch, selection: Selection) -> Selection:
        """The selection of one image with all that a set of indices does not say: merged tokens, an order, tokens twice.

        Args:
            image: the image alone, B = 1, without padding.
            selection: fewer than N tokens.
        """
        return replace(selection, mixing=self.mixing(image, selection.indices))

    def _finished(self, selection: Selection, batch: TokenBatch, row: int) -> Selection:
        """Finished, unless every token stays or the method has nothing to add."""
        silent = type(self).mixing is Method.mixing and type(self).finish is Method.finish
        if silent or len(selection.indices) == selection.total:
            return selection
        return self.finish(single(batch, row), selection)

    def fixed_tokens(self, total: int) -> int:
        """Tokens of an image of ``total`` with a fixed budget. A method whose published code rounds otherwise overrides it."""
        return self.budget.tokens(total)

    def _patch_counts(self, totals: Sequence[int]) -> list[int]:
        """Patches of a fixed budget, at least one; the class and the aggregated token take a place, unless all stay."""
        counts, others = [], int(self.keeps_class_token) + int(self.aggregate != "none")
        for total in totals:
            tokens = self.fixed_tokens(total)
            counts.append(max(tokens - others, min(tokens, 1)) if tokens < total else tokens)
        return counts

    def _joined(self, kept: int, total: int) -> tuple[bool, bool]:
        """Whether the class token, and one for what is dropped, come on top: where there is room for them."""
        room = (self.fixed_tokens(total) if self.budget.kind in ("ratio", "count") else total) - kept
        class_token = self.keeps_class_token and room > 0
        return class_token, self.aggregate != "none" and room > int(class_token)

    def _pack(self, indices: Tensor, total: int, *rows: Tensor | None) -> Selection:
        """The selection of one image of ``total`` tokens; ``rows`` are its order, scores and relevance."""
        order, scores, relevance = rows
        class_token, aggregated = self._joined(len(indices), total)
        return Selection(
            indices=indices,
            total=total,
            aggregated=aggregated,
            class_token=class_token,
            order=order if len(indices) < total else None,
            scores=scores,
            relevance=relevance,
            weights=scores if self.aggregate == "weighted" else None,
        )
