"""PruneSID: patches in groups by principal components, repeats suppressed in each, and a number from every group."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, cosines, signal, wide_dtype

__all__ = ["PruneSID", "group_counts", "principal_groups", "suppressed_order"]


def principal_groups(features: Tensor, components: int) -> Tensor:
    """``[N]`` int64: the component that each patch weighs most in, counted by falling singular value.

    Args:
        features: ``[N, D]``.
        components: how many; at most the rank allows are told apart.
    """
    squashed = torch.sigmoid(features.float()).to(wide_dtype(features.device))
    centered = (squashed - squashed.mean(dim=1, keepdim=True)).T
    vectors = torch.linalg.svd(centered, full_matrices=False).Vh[: max(components, 1)]
    return vectors.abs().argmax(dim=0)


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
