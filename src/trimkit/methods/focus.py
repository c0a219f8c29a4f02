"""Focus, ours: what the question points at, nothing twice, and coverage of the picture as far as it points nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.greedy import kept, relevant_and_new
from trimkit.core.text_lines import MOST_ALIKE, MOST_ROUGH, alike, along_lines, roughness
from trimkit.core.transfer import upload
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._choosing import ChoosingMethod, wide_dtype
from trimkit.methods.trim import Trim

__all__ = ["Focus", "is_page", "vagueness"]

VAGUENESS_POWER = 2.0
MOST_COVERAGE = 0.5
VAGUE_PAGE = 0.4  # a page's map is at least so vague
PEAK = 0.05  # of the patches make the peak of a map
NOISE = 2.0627 / 1.3490  # so many interquartile ranges above the median lie the highest 5 % of a normal distribution


class Focus(ChoosingMethod, Trim):
    """Divides the places of the budget between relevance and coverage, by how clearly the question points somewhere.

    Relevance: greedily the patch of the largest p x novelty, where p is TRIM's score, the softmax of the relevance. Novelty is
    what of a patch's feature the kept ones do not explain (the conditional variance of a determinantal point process with
    cosine similarity, as in CDPruner). It thins out the many patches of one large object, so that a second object, and a
    second mention of it, are seen.

    Coverage: after that, greedily the patch of the largest novelty, whatever it shows.

    Coverage gets a share c of the places: ``vagueness ** 2``, at most a half. The vagueness of a map is how high the mean
    of its highest 5 % would lie above the median if the map were normally distributed noise of the same interquartile
    range, over how high it lies; at most 1. It does not depend on the scale of the similarities. The more clearly a
    question names what is seen, the higher its peak and the smaller c. Where it names nothing ("describe the picture"), c
    grows; and since a text tower can be sure of the wrong place, some places are left for coverage nearly always. It does
    not grow beyond a half, because a thing that covers more than a quarter of the picture widens the quartiles themselves
    and looks vague. Where no patch is more relevant than another, relevance times novelty is coverage, too.

    Pages, with ``lines="auto"``: if a picture is full of text (``trimkit.core.text_lines``), as few of its patches are alike
    and its map is vague, places go by relevance of a patch plus that of its line. The answer stands on the line of what the
    question names, not at it. Nothing is thinned there: letters beside each other are no duplicates. The bounds of likeness
    are those of the demo model's tower and were measured on no other, so the rule is off by default.

    The mean of what is dropped is one more token, as in TRIM. Positions are not used. Deterministic; of equal
    patches the first is taken. Costs N x k x (k + D) multiplications for k of N patches of width D.

    Options beside TRIM's:
        coverage: c, from 0 (relevance alone) to 1 (the question is not used), or ``auto``.
        lines: ``auto`` looks for pages full of text, ``off`` does not.
        redundancy: power of the novelty among relevant patches; 0 ranks them by p alone, which with ``coverage=0`` is TRIM.
    """

    name: ClassVar[str] = "focus"
    summary: ClassVar[str] = (
        "ours: patches relevant to the question, without near-duplicates; where it names nothing in the picture, patches that "
        "cover it"
    )
    paper: ClassVar[str] = ""

    budget: BudgetField = Budget("ratio", 0.112)
    aggregate: Literal["mean", "weighted", "none"] = "mean"
    coverage: Literal["auto"] | float = "auto"
    redundancy: float = Field(default=1.0, ge=0.0)
    lines: Literal["auto", "off"] = "off"

    def model_post_init(self, context: object) -> None:
        """Refuse a share that is none."""
        super().model_post_init(context)
        if self.coverage != "auto" and not 0.0 <= self.coverage <= 1.0:
            raise ConfigError(f"coverage {self.coverage!r} is no share: give a number from 0 to 1, or 'auto'")

    def qualities(self, batch: TokenBatch) -> Tensor:
        return Trim.scores(self, batch)

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        wide = wide_dtype(scores.device)
        if self.coverage == "auto":
            share = (self._vagueness(batch, wide) ** VAGUENESS_POWER).clamp(max=MOST_COVERAGE)
            places = counts[0] if len(set(counts)) == 1 else upload(counts, scores.device)
            relevant = places - (share * places).long()
        else:
            relevant = upload([count - int(self.coverage * count) for count in counts], scores.device)
        worth = scores.to(wide).clamp(min=0.0)
        picked = relevant_and_new(worth, batch.features, counts, batch.totals, relevant, self.redundancy)
        return self._with_lines(batch, kept(picked, scores.shape[1]), counts)

    def _with_lines(self, batch: TokenBatch, keep: Tensor, counts: Sequence[int]) -> Tensor:
        """``keep`` with another choice for pages. Images of one grid together; one whose tokens are no grid is no page."""
        signed = self.signed_relevance(batch)
        if self.lines == "off" or self.coverage != "auto" or signed is None:
            return keep
        for grid in dict.fromkeys(batch.grids):
            rows = [i for i, each in enumerate(batch.grids) if each == grid and batch.totals[i] == _cells(grid)]
            if grid is None or not rows:
                continue
            if len(rows) == len(batch.keys):
                keep = _by_line(batch.features, signed, keep, counts, grid)
                continue
            here, total = upload(rows, keep.device), _cells(grid)
            features, relevance, chosen = (
                each.index_select(0, here)[:, :total] for each in (batch.features, signed, keep)
            )
            chosen = _by_line(features, relevance, chosen, [counts[i] for i in rows], grid)
            keep = keep.index_copy(0, here, pad(chosen, (0, keep.shape[1] - total)))
        return keep

    def _vagueness(self, batch: TokenBatch, wide: torch.dtype) -> Tensor:
        """``[B]`` of images of any lengths; those of one length together."""
        signed, totals = self.signed_relevance(batch), batch.totals
        if signed is not None and len(set(totals)) == 1:
            return vagueness(signed.to(wide))
        found = torch.ones(len(totals), dtype=wide, device=batch.mask.device)
        if signed is None:
            return found
        for total in dict.fromkeys(totals):
            rows = upload([row for row, each in enumerate(totals) if each == total], found.device)
            found = found.index_copy(0, rows, vagueness(signed.index_select(0, rows)[:, :total].to(wide)))
        return found


def vagueness(relevance: Tensor) -> Tensor:
    """From 0, a peak far above the rest, to 1: the highest 5 % of ``[..., N]`` are where noise, or nothing, would have them."""
    total = relevance.shape[-1]
    ordered = relevance.sort(dim=-1, descending=True).values
    places, weights = _quartiles(total, relevance.dtype, relevance.device)
    below, above = ordered.index_select(-1, places).tensor_split(2, dim=-1)
    low, middle, high = torch.lerp(below, above, weights).unbind(-1)  # as torch.quantile has them, in three calls
    peak = ordered[..., : max(int(PEAK * total), 1)].mean(dim=-1) - middle
    vague = (NOISE * (high - low) / peak).clamp(max=1.0)
    flat = ordered[..., 0] == ordered[..., -1]  # their mean can be off by a rounding
    return torch.where(flat | ~(peak > 0), 1.0, vague)


@lru_cache(maxsize=64)
def _quartiles(total: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Among ``total`` values, the highest first: ``[6]`` places below and above quartiles, ``[3]`` weights of those above."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    ranks = np.array([0.25, 0.5, 0.75], dtype=kind) * (total - 1)
    below, above = np.floor(ranks), np.ceil(ranks)
    with torch.inference_mode(False):  # they are used again, perhaps where there are gradients
        places = upload((total - 1 - np.concatenate([below, above])).astype(np.int64), device)
        return places, upload(ranks - below, device)


def is_page(features: Tensor, vague: Tensor, grid: tuple[int, int]) -> Tensor:
    """``[B]`` bool: which pictures are full of text, by features ``[B, N, D]`` and the vagueness ``[B]`` of their maps."""
    return (alike(features) <= MOST_ALIKE) & (roughness(features, grid) < MOST_ROUGH) & (vague >= VAGUE_PAGE)


def _cells(grid: tuple[int, int] | None) -> int:
    return -1 if grid is None else grid[0] * grid[1]


def _by_line(features: Tensor, signed: Tensor, keep: Tensor, counts: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """``keep`` ``[B, N]`` of images of one grid, with the most worth by line in the rows of pages."""
    page = is_page(features, vagueness(signed.to(wide_dtype(signed.device))), grid)
    by_line = F.count_select(along_lines(signed, grid), upload(counts, keep.device))
    return torch.where(page.unsqueeze(1), by_line, keep)
