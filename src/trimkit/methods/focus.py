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

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.greedy import kept, relevant_and_new
from trimkit.core.text_lines import MOST_ALIKE, alike, along_lines
from trimkit.core.transfer import one_by_one, upload
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._choosing import ChoosingMethod, Compared, compared, wide_dtype
from trimkit.methods.trim import Trim

__all__ = ["Focus", "by_line", "is_page", "two_views", "vagueness"]

VAGUENESS_POWER = 2.0
MOST_COVERAGE = 0.25
VAGUE_PAGE = 0.4  # a page's map is at least so vague
PEAK = 0.05  # of the patches make the peak of a map
LEAST_WORTH = 1e-12
NOISE = 2.0627 / 1.3490  # so many interquartile ranges above the median lie the highest 5 % of a normal distribution


class Focus(ChoosingMethod, Trim):
    """Divides the places of the budget between relevance and coverage, by how clearly the question points somewhere.

    Relevance: greedily the patch of the largest worth x novelty. Novelty is what of a patch's token the kept ones do not
    explain (the conditional variance of a determinantal point process with cosine similarity, as in CDPruner); tokens are
    compared behind the projector. It thins out the many patches of one large object, so that a second object, and a second
    mention of it, are seen. Worth is the square of the mean of two views of relevance: TRIM's score over its highest, which
    is high at peaks alone, and the relevance scaled to 0 to 1, which tells the rest of the picture apart as well.

    Coverage: after that, greedily the patch of the largest novelty, whatever it shows.

    Coverage gets a share c of the places: ``vagueness ** 2``, at most a quarter. The vagueness of a map is how high the mean
    of its highest 5 % would lie above the median if the map were normally distributed noise of the same interquartile
    range, over how high it lies; at most 1. It does not depend on the scale of the similarities. The more clearly a
    question names what is seen, the higher its peak and the smaller c. Where it names nothing ("describe the picture"), c
    grows. Where no patch is more relevant than another, worth times novelty is coverage, too.

    Pages, with ``lines="auto"``: if a picture is full of text (few of its patches are alike, and its map is vague), the worth
    of a patch is its relevance above the median together with the highest of its row and of its column
    (``trimkit.core.text_lines.along_lines``). The answer stands on the line of what the question names, not at it. All patches
    of such a picture are unlike each other, so that it gets no share of coverage beside that.

    The mean of what is dropped is one more token, as in TRIM. Positions are used for pages alone. Deterministic; of equal
    patches the first is taken. Costs N x k x (k + D) multiplications for k of N patches of width D.

    Options beside TRIM's:
        compare: ``projected``; or ``features``, as the family gives them (in LLaVA-1.5 before the projector, which then runs
            on kept tokens alone).
        coverage: c, from 0 (relevance alone) to 1 (the question is not used), or ``auto``.
        lines: ``auto`` looks for pages full of text, ``off`` does not.
        redundancy: power of the novelty among relevant patches; 0 ranks them by worth alone, which with ``coverage=0`` and
            ``lines="off"`` is TRIM's order, as far as its scores tell patches apart.
    """

    name: ClassVar[str] = "focus"
    summary: ClassVar[str] = (
        "ours: patches relevant to the question, without near-duplicates; where it names nothing in the picture, patches that "
        "cover it"
    )
    paper: ClassVar[str] = ""
    signals: ClassVar[frozenset[str]] = frozenset({"projected"})

    budget: BudgetField = Budget("ratio", 0.112)
    aggregate: Literal["mean", "weighted", "none"] = "mean"
    compare: Compared = "projected"
    coverage: Literal["auto"] | float = "auto"
    redundancy: float = Field(default=1.0, ge=0.0)
    lines: Literal["auto", "off"] = "auto"

    def model_post_init(self, context: object) -> None:
        """Refuse a share that is none."""
        super().model_post_init(context)
        if self.coverage != "auto" and not 0.0 <= self.coverage <= 1.0:
            raise ConfigError(f"coverage {self.coverage!r} is no share: give a number from 0 to 1, or 'auto'")

    @property
    def asked_signals(self) -> frozenset[str]:
        return self.signals if self.compare == "projected" and not self.keeps_all else frozenset()

    def qualities(self, batch: TokenBatch) -> Tensor:
        return Trim.scores(self, batch)

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        worth, relevant = self.weigh(batch, scores, counts)
        tokens = compared(self, batch)
        return kept(relevant_and_new(worth, tokens, counts, batch.totals, relevant, self.redundancy), scores.shape[1])

    def weigh(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """``[B, N]`` worth, above 0 but on padding, and ``[B]`` int64, how many are chosen by worth x novelty.

        Raises:
            ConfigError: the batch has no relevance.
        """
        signed = batch.signed_relevance(self._resolved_sign(batch))
        if signed is None:
            raise ConfigError(f"method {self.name!r} needs text relevance: attach a scorer with a text tower")
        wide = wide_dtype(scores.device)
        signed, places = signed.to(wide), upload(counts, scores.device)
        worth = two_views(scores.to(wide).clamp(min=0.0), signed, batch.padding)
        vague = _each_length(signed, batch.totals)
        share = (vague**VAGUENESS_POWER).clamp(max=MOST_COVERAGE)
        if self.lines == "auto":
            worth, page = self._pages(batch, signed, vague, worth)
            share = share.masked_fill(page, 0.0)
        if self.coverage != "auto":
            share = torch.full_like(share, self.coverage)
        return worth, places - (share * places).long()

    def _pages(self, batch: TokenBatch, signed: Tensor, vague: Tensor, worth: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, N]`` worth, by line on pages, and ``[B]`` bool, which images are pages.

        Images of one grid together; one whose tokens are no grid is no page.
        """
        page = torch.zeros_like(vague, dtype=torch.bool)
        for grid, rows in _grids(batch, vague).items():
            whole, total = len(rows) == len(batch.keys), grid[0] * grid[1]
            at = upload(rows, vague.device)
            features, relevance, how_vague, before = (
                each if whole else each.index_select(0, at) for each in (batch.features, signed, vague, worth)
            )
            found = is_page(features[:, :total], how_vague)
            of_lines = pad(by_line(relevance[:, :total], grid), (0, worth.shape[1] - total))
            mixed = torch.where(found.unsqueeze(1), of_lines, before)
            worth, page = (mixed, found) if whole else (worth.index_copy(0, at, mixed), page.index_copy(0, at, found))
        return worth, page


def _grids(batch: TokenBatch, vague: Tensor) -> dict[tuple[int, int], list[int]]:
    """Images that can be pages, by their grids. On the CPU only those whose map is vague enough."""
    maps = vague.numpy() if one_by_one(vague.device) else None
    found: dict[tuple[int, int], list[int]] = {}
    for row, grid in enumerate(batch.grids):
        fits = grid is not None and batch.totals[row] == grid[0] * grid[1]
        if grid is not None and fits and (maps is None or maps[row] >= VAGUE_PAGE):
            found.setdefault(grid, []).append(row)
    return found


def two_views(scores: Tensor, signed: Tensor, mask: Tensor | None = None) -> Tensor:
    """``[B, N]`` worth, 0 to 1: the square of the mean of scores over their highest and of relevance scaled to 0 to 1.

    No token is worth nothing, so that where all are worth the least, novelty decides.

    Args:
        scores: ``[B, N]``, not negative; 0 on padding.
        signed: ``[B, N]`` finite relevance, higher = more relevant.
        mask: ``[B, N]`` bool, false on padding, where worth is 0; None where there is none.
    """
    low = (signed if mask is None else signed.masked_fill(~mask, torch.inf)).amin(dim=1, keepdim=True)
    above = signed - low if mask is None else (signed - low).masked_fill(~mask, 0.0)
    worth = ((_of_highest(above) + _of_highest(scores)) / 2).square().clamp(min=LEAST_WORTH)
    return worth if mask is None else worth.masked_fill(~mask, 0.0)


def by_line(signed: Tensor, grid: tuple[int, int]) -> Tensor:
    """``[B, N]`` worth on pages, 0 to 1, see ``along_lines``; it is squared, as what ``two_views`` gives."""
    return along_lines(signed, grid).square().clamp(min=LEAST_WORTH)


def _of_highest(values: Tensor) -> Tensor:
    return values / values.amax(dim=1, keepdim=True).clamp(min=LEAST_WORTH)


def _each_length(maps: Tensor, totals: Sequence[int]) -> Tensor:
    """``[B]`` vagueness of maps of any lengths; those of one length together."""
    if len(set(totals)) == 1:
        return vagueness(maps[:, : totals[0]])
    found = maps.new_ones(len(totals))
    for total in dict.fromkeys(totals):
        rows = upload([row for row, each in enumerate(totals) if each == total], found.device)
        found = found.index_copy(0, rows, vagueness(maps.index_select(0, rows)[:, :total]))
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


def is_page(features: Tensor, vague: Tensor) -> Tensor:
    """``[B]`` bool: which pictures are full of text, by features ``[B, N, D]`` and the vagueness ``[B]`` of their maps."""
    return (alike(features) <= MOST_ALIKE) & (vague >= VAGUE_PAGE)
