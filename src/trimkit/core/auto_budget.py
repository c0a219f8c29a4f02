"""The budget ``auto``: how many tokens this picture and this question need, from what is known before the language model runs.

Each of four signals is a share from 0 to 1, higher where more tokens are needed:

1. flatness of the relevance: the exponential of the entropy of the scores, over the number of tokens;
2. novelty: how many directions the picture's features take up (the participation ratio of their covariance), over the number
   of tokens compared;
3. detail, a stand-in for the density of text: how unlike tokens are to their neighbors, over how unlike any two are;
4. things named: words of four letters or more in the question, ``(n + 1) / (n + 4)``.

The need is their geometric mean, and ``ceil(dial * need * N)`` of N tokens stay, so the count never falls where the dial is
turned up. The dial is a property of the model and its pictures: ``trimkit calibrate --risk`` finds it.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.transfer import upload
from trimkit.core.types import TokenBatch

__all__ = ["auto_counts", "detail", "flatness", "named_share", "needs", "novelty"]

_MOST_COMPARED = 144  # tokens, at equal steps: 12 x 12 of 24 x 24
_ALIKE = 1e-6  # squared distance of two features of length 1 below which they differ by rounding
_LEAST = 1e-3  # of a signal: none alone makes the need vanish
_WORD = re.compile(r"[^\W\d_]{4,}")
_NEVER_MORE = 12  # names counted: a long prompt is no long list


def auto_counts(
    scores: Tensor, batch: TokenBatch, dial: float, min_tokens: int = 1, max_tokens: int | None = None
) -> Tensor:
    """``[B]`` int64 tokens that every image needs: 0 of none, else at least 1, at most all. Does not wait for the device.

    Args:
        scores: ``[B, N]`` of a method, higher = keep; negative ones count as 0.
        batch: the images.
        dial: above 0.
        min_tokens, max_tokens: floor and cap.
    """
    totals = upload(batch.totals, scores.device)
    wanted = (dial * needs(scores, batch) * totals).clamp(max=2.0**30).ceil().long()
    return torch.minimum(F.limit_counts(wanted, min_tokens=min_tokens, max_tokens=max_tokens), totals)


def needs(scores: Tensor, batch: TokenBatch) -> Tensor:
    """``[B]`` float32, 0 to 1: the geometric mean of the four signals. Every image is read alone and without padding."""
    asked = batch.queries or (None,) * len(batch.totals)
    rows = []
    for row, (total, grid, question) in enumerate(zip(batch.totals, batch.grids, asked, strict=True)):
        if not total:
            rows.append(scores.new_zeros((), dtype=torch.float32))
            continue
        unit = _units(batch.features[row, :total])
        named = torch.full((), named_share(question), dtype=torch.float32, device=scores.device)
        signals = [flatness(scores[row, :total]), novelty(unit), detail(unit, grid), named]
        rows.append(torch.stack(signals).clamp(_LEAST, 1.0).log().mean().exp())
    return torch.stack(rows) if rows else scores.new_zeros(0, dtype=torch.float32)


def flatness(scores: Tensor) -> Tensor:
    """Scalar, 1 / N (one token has all the mass) to 1 (all have the same). Scores ``[N]``; what is not finite as in TRIM."""
    mass = F.sanitize(scores).float().clamp(min=0.0)
    total = mass.sum()
    share = torch.where(total > 0, mass / total.clamp(min=1e-30), 1.0 / len(scores))
    entropy = -torch.where(share > 0, share * share.clamp(min=1e-30).log(), 0.0).sum()
    return entropy.exp() / len(scores)


def novelty(unit: Tensor) -> Tensor:
    """Scalar, 0 to 1: the participation ratio ``tr(K)^2 / tr(K K)`` of the Gram matrix of centered features, over their number.

    Args:
        unit: ``[N, D]`` features of length 1.
    """
    step = -(-len(unit) // _MOST_COMPARED)
    some = unit[::step] - unit[::step].mean(dim=0)
    gram = some @ some.T
    spread = gram.diagonal().sum()
    ratio = spread.square() / gram.square().sum().clamp(min=1e-12)
    return torch.where(spread > _ALIKE * len(some), ratio / len(some), 0.0)


def detail(unit: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """Scalar, 0 to 1: the mean of 1 - cosine between neighbors, over that between any two tokens; 1 where all are alike.

    Args:
        unit: ``[N, D]`` features of length 1.
        grid: rows and columns; None compares each token with the next.
    """
    count = len(unit)
    if grid is None or grid[0] * grid[1] != count:
        grid = (1, count)
    field = unit.view(*grid, unit.shape[1])
    beside = (field[:, 1:] * field[:, :-1]).sum(-1).flatten()
    below = (field[1:] * field[:-1]).sum(-1).flatten()
    near = torch.cat([beside, below])
    if not len(near):
        return unit.new_ones(())
    apart = 1.0 - near.mean()
    overall = (1.0 - unit.mean(dim=0).square().sum()) * count / (count - 1)
    return torch.where(overall > _ALIKE, (apart / overall.clamp(min=_ALIKE)).clamp(0.0, 1.0), 1.0)


def named_share(question: str | None) -> float:
    """From 1/4 (nothing is named, or nothing asked) towards 1: different words of four letters or more, at most 12."""
    named = min(len({word.lower() for word in _WORD.findall(question or "")}), _NEVER_MORE)
    return (named + 1) / (named + 4)


def _units(features: Tensor) -> Tensor:
    """``[N, D]`` float32 of length 1; one that is not finite becomes 0."""
    return torch.nn.functional.normalize(features.float(), dim=-1).nan_to_num(0.0)
