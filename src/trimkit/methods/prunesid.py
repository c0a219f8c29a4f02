"""PruneSID: patches in groups by principal components, repeats suppressed in each, and a number from every group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.transfer import fetch, upload
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, cosines, signal, wide_dtype

__all__ = ["PruneSID", "group_counts", "principal_groups", "suppressed_order"]

Bools = NDArray[np.bool_]


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

    lists_in_order: ClassVar[bool] = True

    def qualities(self, batch: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, batch, "cls_attention"))

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        """On the host, by one transfer for all images: singular vectors are found by waiting, whatever the device."""
        asked = list(zip(batch.totals, counts, strict=True))
        pairs = [self._pairs(batch.features[row, :total], count + 1) for row, (total, count) in enumerate(asked)]
        host = fetch([scores, *(each for pair in pairs for each in pair)])
        attention = host[0].float().numpy()
        picked = np.full((len(asked), max(counts)), scores.shape[1])
        for row, (total, count) in enumerate(asked):
            products, repeats = host[1 + 2 * row : 3 + 2 * row]
            picked[row, :count] = _listed(products, repeats.numpy(), attention[row, :total], count + 1)
        return upload(picked, scores.device)

    @staticmethod
    def _pairs(features: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """``[N, N]`` products of the centered patches, and bool, which patches repeat each other.

        Args:
            features: ``[N, D]`` of one image.
            tokens: T.
        """
        features = features.nan_to_num(0.0)
        similar = cosines(features.to(wide_dtype(features.device)))
        mean = tokens / 32 * similar.triu(diagonal=1).sum() / (len(features) * (len(features) - 1) / 2)
        return _products(features), similar > mean


def _listed(products: Tensor, repeats: Bools, attention: NDArray[np.float32], tokens: int) -> list[int]:
    """The ``tokens - 1`` patches of one image that stay, in the order of the language model."""
    groups = _groups(products, tokens // 4).numpy()
    falling = np.argsort(-attention, kind="stable")
    lists, taken = [], []
    for group in range(max(tokens // 4, 1)):
        order, distinct = suppressed_order(repeats, falling[groups[falling] == group])
        lists.append(order)
        taken.append(distinct)
    counts = group_counts(taken, [len(members) for members in lists], tokens)
    return [member for members, own in zip(lists, counts, strict=True) for member in members[:own]]


def principal_groups(features: Tensor, components: int) -> Tensor:
    """``[N]`` int64: the component that each patch weighs most in, counted by falling singular value.

    Args:
        features: ``[N, D]``.
        components: how many; at most the rank allows are told apart.
    """
    return _groups(_products(features), components)


def _products(features: Tensor) -> Tensor:
    """``[N, N]``: the singular vectors of the centered patches are its eigenvectors, and it is smaller."""
    squashed = torch.sigmoid(features.float()).to(wide_dtype(features.device))
    centered = squashed - squashed.mean(dim=1, keepdim=True)
    return centered @ centered.T


def _groups(products: Tensor, components: int) -> Tensor:
    vectors = torch.linalg.eigh(products).eigenvectors.flip(1)[:, : max(components, 1)]
    groups: Tensor = vectors.abs().argmax(dim=1)
    return groups


def suppressed_order(repeats: Bools, falling: NDArray[np.int64]) -> tuple[list[int], int]:
    """Members of one group in the order in which they are taken, and how many were taken before repeats.

    Args:
        repeats: ``[N, N]``; a member that repeats a taken one is suppressed, and comes after all that are taken.
        falling: the members by falling attention.
    """
    taken: list[int] = []
    suppressed: list[int] = []
    for member in falling.tolist():
        (suppressed if repeats[taken, member].any() else taken).append(member)
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
