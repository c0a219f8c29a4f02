"""DivPrune: the patches that are farthest from each other."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import Selection, TokenBatch
from trimkit.methods._choosing import ChoosingMethod, Compared, compared, cosines
from trimkit.methods._published import RERUNS, PublishedAccuracy

__all__ = ["DivPrune"]


class DivPrune(ChoosingMethod):
    """Chooses greedily so that the smallest cosine distance among kept tokens is as large as can be (max-min diversity).

    First comes the token that is farthest from its nearest other one, then always the one that is farthest from all that are
    kept. No text, no attention. As in the published code (github.com/vbdi/divprune), tokens are compared behind the
    projector, a fraction r keeps ``round(r N)`` of them, and where only copies of kept tokens are left, one token is given
    again and again. The default budget is that code's.

    Where the budget decides per image, a patch's score is its cosine distance from the mean one.

    Options:
        compare: ``projected``; or ``features``, as the family gives them (in LLaVA-1.5 before the projector, which then runs
            on kept tokens alone).
        repeats: whether a token may be given again where only copies are left; else copies are kept. Where images share a
            budget, each token is kept once.
    """

    name: ClassVar[str] = "divprune"
    summary: ClassVar[str] = "DivPrune: the most different patches (max-min cosine distance)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.02175"
    published: ClassVar[tuple[PublishedAccuracy, ...]] = (PublishedAccuracy({128: 96.7, 64: 93.7}, RERUNS),)
    signals: ClassVar[frozenset[str]] = frozenset({"projected"})

    budget: BudgetField = Budget("ratio", 0.098)
    compare: Compared = "projected"
    repeats: bool = True

    @property
    def asked_signals(self) -> frozenset[str]:
        return self.signals if self.compare == "projected" and not self.keeps_all else frozenset()

    def fixed_tokens(self, total: int) -> int:
        if self.budget.kind == "ratio":
            return min(max(round(self.budget.value * total), 1), total)
        return super().fixed_tokens(total)

    def quality(self, image: TokenBatch) -> Tensor:
        features = torch.nn.functional.normalize(compared(self, image).float(), dim=-1).nan_to_num(0.0)
        mean = torch.nn.functional.normalize(features.mean(dim=0), dim=0)
        return (1.0 - features @ mean).clamp(min=0.0)

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        distances = self._distances(image)
        nearest = distances.clone().fill_diagonal_(torch.inf)
        broken = distances.amax(dim=0) < -0.5
        nearest = nearest.masked_fill(nearest < -0.5, torch.inf).amin(dim=1).masked_fill(broken, -1.0)
        picked = torch.empty(count, dtype=torch.int64, device=scores.device)
        for turn in range(count):
            picked[turn] = nearest.argmax()
            seen = distances[picked[turn]]
            nearest = seen.clone() if turn == 0 else torch.minimum(nearest, seen)
        return picked

    def finish(self, image: TokenBatch, selection: Selection) -> Selection:
        """With what is given again: it is one token, since choosing it anew does not change its distance to itself."""
        if selection.scores is None or not self.repeats:
            return selection
        missing = int(self.counts(selection.scores[None], image)[0]) - len(selection.indices)
        if missing < 1:
            return selection
        again = self._distances(image)[selection.indices].amin(dim=0).argmax().repeat(missing)
        return replace(selection, indices=torch.cat([selection.indices, again]).sort().values)

    def _distances(self, image: TokenBatch) -> Tensor:
        """``[N, N]`` cosine distances: -1 to what is not finite, which is far from everything and not to be wanted.

        On the diagonal a token's distance to itself, 0 but for rounding, or -inf where it is never given again.
        """
        vectors = compared(self, image)
        distances = 1.0 - cosines(vectors)
        own = distances.diagonal().clone()
        distances = distances.masked_fill(~vectors.isfinite().all(dim=1), -1.0)
        direction = own.abs() < 0.5 if self.repeats else torch.zeros_like(own, dtype=torch.bool)
        return distances.diagonal_scatter(own.masked_fill(~direction, -torch.inf))
