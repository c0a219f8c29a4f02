"""Focus, ours: what the question points at, nothing twice, and coverage of the picture as far as it points nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.greedy import kept, relevant_and_new
from trimkit.core.types import TokenBatch
from trimkit.core.weighing import weigh
from trimkit.errors import ConfigError
from trimkit.methods._choosing import ChoosingMethod, Compared, compared_rows
from trimkit.methods.trim import Trim

__all__ = ["Focus"]


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
    patches the first is taken, as far as rounding leaves them equal. Costs N x k x (k + D) multiplications for k of N
    patches of width D.

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
        tokens = compared_rows(self, batch)
        return kept(relevant_and_new(worth, tokens, counts, batch.totals, relevant, self.redundancy), scores.shape[1])

    def weigh(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """``[B, N]`` worth, above 0 but on padding, and ``[B]`` int64, how many are chosen by worth x novelty.

        Raises:
            ConfigError: the batch has no relevance.
        """
        signed = batch.signed_relevance(self._resolved_sign(batch))
        if signed is None:
            raise ConfigError(f"method {self.name!r} needs text relevance: attach a scorer with a text tower")
        shapes = zip(batch.totals, batch.grids, strict=True)
        grids = [grid if grid is not None and total == grid[0] * grid[1] else None for total, grid in shapes]
        pages = (batch.features, grids) if self.lines == "auto" else None
        return weigh(scores, signed, counts, batch.totals, pages, None if self.coverage == "auto" else self.coverage)
