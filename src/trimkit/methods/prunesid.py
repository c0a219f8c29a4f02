"""PruneSID: patches in groups by principal components, repeats suppressed in each, and a number from every group."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import Selection, TokenBatch
from trimkit.methods._choosing import ChoosingMethod, cosines, signal, wide_dtype

__all__ = ["PruneSID", "group_counts", "principal_groups", "suppressed_order"]


class PruneSID(ChoosingMethod):
    """Groups the patches by principal components, suppresses repeats within each group, and takes some of every group.

    T is the number of tokens, the class token's own state among them.

    1. Groups: of the patches' sigmoids, centered patch by patch, the first ``int(T / 4)`` singular vectors; a patch belongs to
       the one in which it weighs most.
    2. Suppression: in a group, by falling class attention, a patch more similar (cosine) to one already taken than T / 32 times
       the picture's mean similarity is suppressed. The suppressed come behind all that are taken.
    3. Counts: one for each group, and the rest in proportion to how many each took, at most ``5 * ceil(T / 64)`` at first.

    The language model gets the class token, then group by group by falling singular value, each in its own order. The
    released code's singular vectors come of an unseeded random sketch; here they are exact. The layer is the one that gives
    the features.

    Options:
        class_token: whether the class token is kept; without it, its place is a patch's.
    """

    name: ClassVar[str] = "prunesid"
    summary: ClassVar[str] = "PruneSID: groups by principal components, repeats suppressed, some of every group"
    paper: ClassVar[str] = "https://github.com/ZhengyaoFang/PruneSID"
    signals: ClassVar[frozenset[str]] = frozenset({"cls_attention", "cls_state"})

    budget: BudgetField = Budget("count", 64)
    class_token: bool = True

    @property
    def keeps_class_token(self) -> bool:
        return self.class_token

    @property
    def asked_signals(self) -> frozenset[str]:
        own = {"cls_attention", "cls_state"} if self.class_token else {"cls_attention"}
        return frozenset() if self.keeps_all else frozenset(own)

    def quality(self, image: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, image, "cls_attention"))[0]

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        features = image.features[0].nan_to_num(0.0)
        tokens = count + 1  # the class token's place, whether it is kept or not
        groups = principal_groups(features, tokens // 4)
        similar = cosines(features.to(wide_dtype(features.device)))
        pairs = len(features) * (len(features) - 1) / 2
        threshold = tokens / 32 * float(similar.triu(diagonal=1).sum()) / pairs
        lists, taken = [], []
        for group in range(max(tokens // 4, 1)):
            members = (groups == group).nonzero().squeeze(1)
            order, distinct = suppressed_order(similar[members][:, members], scores[members], threshold)
            lists.append(members[order])
            taken.append(distinct)
        counts = group_counts(taken, [len(members) for members in lists], tokens)
        return torch.cat([members[:own] for members, own in zip(lists, counts, strict=True)])

    def finish(self, image: TokenBatch, selection: Selection) -> Selection:
        listed = self.choose(image, self.quality(image), len(selection.indices))
        return replace(selection, order=torch.searchsorted(selection.indices, listed))


def principal_groups(features: Tensor, components: int) -> Tensor:
    """``[N]`` int64: the component that each patch weighs most in, counted by falling singular value.

    Args:
        features: ``[N, D]``.
        components: how many; at most the rank allows are told apart.
    """
    squashed = torch.sigmoid(features.float()).to(wide_dtype(features.device))
    centered = squashed - squashed.mean(dim=1, keepdim=True)
    # The singular vectors of the centered patches are eigenvectors of their products, which are fewer.
    vectors = torch.linalg.eigh(centered @ centered.T).eigenvectors.flip(1)[:, : max(components, 1)]
    groups: Tensor = vectors.abs().argmax(dim=1)
    return groups


def suppressed_order(similarity: Tensor, attention: Tensor, threshold: float) -> tuple[list[int], int]:
    """Members of one group in the order in which they are taken, and how many were taken before repeats.

    Args:
        similarity: ``[m, m]``.
        attention: ``[m]``.
        threshold: a member more similar than this to a taken one is suppressed, and comes after all that are taken.
    """
    falling = attention.sort(descending=True, stable=True).indices.tolist()
    repeats = (similarity > threshold).tolist()
    taken: list[int] = []
    suppressed: list[int] = []
    for member in falling:
        (suppressed if any(repeats[lead][member] for lead in taken) else taken).append(member)
    return taken + suppressed, len(taken)


def group_counts(taken: list[int], members: list[int], tokens: int) -> list[int]:
    """How many patches each group gives, ``tokens - 1`` in all; one place is the class token's.

    Args:
        taken, members: of each group, those left by the suppression, and all.
        tokens: T.
    """
    least = [min(1, size) for size in members]
    most = [min(5 * math.ceil(tokens / 64), *pair) for pair in zip(members, taken, strict=True)]
    while sum(most) < tokens and sum(most) < sum(members):
        most = [min(cap + 1, size) for cap, size in zip(most, members, strict=True)]
    room = max(0, tokens - 1 - sum(least))
    counts, before, passed = [], 0, 0
    for low, cap, left in zip(least, most, taken, strict=True):
        passed += left
        share = round(room * passed / max(sum(taken), 1))
        counts.append(min(low + share - before, cap))
        before = share
    order = sorted(range(len(taken)), key=lambda group: -taken[group])
    missing = room + sum(least) - sum(counts)
    while missing > 0 and counts != most:
        for group in order:
            more = min(most[group] - counts[group], missing)
            counts[group], missing = counts[group] + more, missing - more
    return counts
