"""TRIM as pure tensor functions: relevance, selection, aggregation. No model, no state, any device and dtype.

Shapes: B images, N image tokens (padded to the longest), D feature width, P joint embedding width. ``mask`` is a bool
``[B, N]``, true on real tokens; ``None`` means that all are real. Scores are computed in float32 (float64 stays) whatever
the dtype of the features, because quartiles over hundreds of half-precision probabilities are mostly rounding.

What is defined beyond the paper:

* all scores outliers: cannot be, at most a quarter lies above Q3;
* no score is an outlier (or all are equal): the ``min_tokens`` highest are kept, ties going to the lower index;
* NaN ranks below everything and +inf equals the largest finite value, so that neither poisons the softmax; a row
  without one finite value counts as all-equal;
* an image of one token keeps it; an image of zero tokens (a fully masked row) keeps nothing;
* everything kept: nothing is left to aggregate, so no aggregated token is made.

Source: TRIM, arXiv 2409.10994, section 3, and its released code where the two differ (``scope="batch"``, ``sign=-1``).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "aggregate",
    "clip_relevance",
    "count_select",
    "iqr_count",
    "iqr_select",
    "limit_counts",
    "patch_embeddings",
    "places",
    "ranking",
    "relevance_to_scores",
    "sanitize",
    "softmax_scores",
    "top_p_select",
]

Scope = Literal["image", "batch"]


def patch_embeddings(
    features: Tensor, ln_weight: Tensor, ln_bias: Tensor, projection: Tensor, eps: float = 1e-5
) -> Tensor:
    """Project patch features into CLIP's joint space: post-layernorm, then the visual projection.

    Args:
        features: ``[..., D]`` patch features of the tower's penultimate layer, without CLS.
        ln_weight, ln_bias: ``[D]`` of CLIP's ``post_layernorm``.
        projection: ``[P, D]`` weight of ``visual_projection`` (it has no bias).
        eps: of the layernorm.

    Returns:
        ``[..., P]`` in float32, or float64 where the features are.
    """
    dtype = _score_dtype(features)
    normed = torch.nn.functional.layer_norm(
        features.to(dtype), (features.shape[-1],), ln_weight.to(dtype), ln_bias.to(dtype), eps
    )
    return torch.nn.functional.linear(normed, projection.to(dtype))


def clip_relevance(patches: Tensor, text: Tensor, *, normalize: bool = False) -> Tensor:
    """Similarity of each patch to the text: the dot product, or the cosine with ``normalize``.

    Args:
        patches: ``[B, N, P]`` patch embeddings.
        text: ``[B, P]`` one text embedding an image.
        normalize: divide both sides by their L2 norm (the paper's text). The released code does not.

    Returns:
        ``[B, N]`` similarity, not yet signed or scaled.
    """
    text = text.to(patches.dtype)
    if normalize:
        patches = torch.nn.functional.normalize(patches, dim=-1)
        text = torch.nn.functional.normalize(text, dim=-1)
    return torch.matmul(patches, text.unsqueeze(2)).squeeze(2)


def relevance_to_scores(
    relevance: Tensor, mask: Tensor | None = None, *, sign: int = 1, temperature: float = 1.0
) -> Tensor:
    """Softmax over an image's tokens of ``sign * relevance / temperature`` (paper eq. 2).

    ``sign`` is a property of the encoder: OpenAI's CLIP towers answer with *low* similarity on the patches that the text
    is about, hence the minus in the released code.

    Returns:
        ``[B, N]`` scores that sum to 1 a row (0 on masked tokens, and everywhere in a row without tokens).
    """
    if relevance.shape[-1] == 0:
        return relevance.to(_score_dtype(relevance))
    return softmax_scores(sanitize(relevance * sign, mask), mask, temperature)


def softmax_scores(signed: Tensor, mask: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """``relevance_to_scores`` of what has its sign already and is finite: neither is seen to here."""
    logits = signed
    if temperature != 1.0:
        logits = logits / temperature
    if mask is None:
        return torch.softmax(logits, dim=-1)
    scores = torch.softmax(logits.masked_fill(~mask, -torch.inf), dim=-1)
    return scores.nan_to_num(0.0)


def sanitize(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Replace what is not finite: NaN and -inf by the row's smallest finite value, +inf by its largest.

    A row with no finite value becomes all zeros, that is all-equal. Finite input comes back bit for bit.
    """
    values = values.to(_score_dtype(values))
    if values.shape[-1] == 0:
        return values
    inf = torch.inf
    real = values if mask is None else values.masked_fill(~mask, torch.nan)
    low = real.nan_to_num(nan=inf, posinf=inf, neginf=inf).amin(dim=-1, keepdim=True)
    high = real.nan_to_num(nan=-inf, posinf=-inf, neginf=-inf).amax(dim=-1, keepdim=True)
    # With no finite value they are what they were filled with.
    low, high = low.nan_to_num(posinf=0.0), high.nan_to_num(neginf=0.0)
    return torch.where(values - values == 0, values, torch.where(values == inf, high, low))


def iqr_count(scores: Tensor, mask: Tensor | None = None, *, scope: Scope = "image") -> Tensor:
    """How many scores lie above ``Q3 + 1.5 * IQR``; quartiles by linear interpolation.

    Args:
        scores: ``[B, N]``.
        scope: ``image`` takes quartiles per image. ``batch`` is the released code: quartiles of the flattened batch and
            the same count for every image, ``int(N * outliers / (B * N))`` with its rounding.

    Returns:
        ``[B]`` int64 counts.
    """
    device = scores.device
    scores, mask = _exact(scores), None if mask is None else _exact(mask, torch.bool)
    real = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    if scope == "batch":
        flat, used = scores.reshape(1, -1), real.reshape(1, -1)
        outliers = ((flat > _iqr_fence(flat, used)) & used).sum()
        ratio = outliers.double() / used.sum().clamp(min=1)
        return (real.sum(dim=1) * ratio).long().to(device)
    return ((scores > _iqr_fence(scores, real)) & real).sum(dim=1).to(device)


def iqr_select(
    scores: Tensor,
    mask: Tensor | None = None,
    *,
    scope: Scope = "image",
    min_tokens: int = 1,
    max_tokens: int | None = None,
) -> Tensor:
    """Keep the outliers of the interquartile-range rule, at least ``min_tokens`` and at most ``max_tokens`` an image.

    The rule can never keep more than a quarter of the tokens.

    Returns:
        ``[B, N]`` bool, true where the token is kept.
    """
    counts = limit_counts(iqr_count(scores, mask, scope=scope), min_tokens=min_tokens, max_tokens=max_tokens)
    return count_select(scores, counts, mask)


def count_select(scores: Tensor, counts: Tensor | int, mask: Tensor | None = None) -> Tensor:
    """Keep the ``counts`` highest scores of each image; equal scores go to the lower index.

    Args:
        scores: ``[B, N]``; NaN ranks last.
        counts: an int or ``[B]``; more than an image has keeps all of it.

    Returns:
        ``[B, N]`` bool.
    """
    order = ranking(scores)  # masked tokens sort behind even a -inf score: sort twice, the second time by "is padding"
    if mask is not None:
        padding_last = torch.sort((~mask).gather(1, order).to(torch.int8), dim=-1, stable=True).indices
        order = order.gather(1, padding_last)
    keep = torch.zeros_like(scores, dtype=torch.bool)
    if isinstance(counts, Tensor):
        taken = torch.arange(scores.shape[1], device=scores.device)
        taken = taken < (counts.unsqueeze(1) if counts.ndim else counts)
        keep.scatter_(1, order, taken.expand(order.shape))
    else:
        keep.scatter_(1, order[:, : max(counts, 0)], True)
    return keep if mask is None else keep & mask


def ranking(scores: Tensor) -> Tensor:
    """``[B, N]`` int64 tokens by their scores, the highest first, equal ones by index; NaN ranks last."""
    ranked = scores.to(_score_dtype(scores)).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return torch.sort(ranked, dim=-1, descending=True, stable=True).indices


def places(keep: Tensor, count: int | None = None) -> Tensor:
    """``[..., count]`` int64, ascending: where ``keep`` ``[..., N]`` is true, if it is so ``count`` times or more in each row.

    Unlike ``nonzero`` it does not wait for the device to count. Where a row has fewer, what is false follows; without a
    ``count`` all of it does.
    """
    order = torch.sort((~keep).to(torch.int8), dim=-1, stable=True).indices
    return order if count is None else order[..., :count]


def top_p_select(
    scores: Tensor,
    p: float,
    mask: Tensor | None = None,
    *,
    min_tokens: int = 1,
    max_tokens: int | None = None,
) -> Tensor:
    """Keep the fewest highest scores that together hold at least the mass ``p`` (0 < p <= 1) of the image's sum.

    Returns:
        ``[B, N]`` bool.
    """
    real = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    mass = _exact(sanitize(scores, real).masked_fill(~real, 0.0))
    mass = torch.sort(mass, dim=-1, descending=True).values
    total = mass.sum(dim=-1, keepdim=True)
    before = mass.cumsum(dim=-1) - mass
    counts = (before < p * total - 1e-12).sum(dim=1).to(scores.device)
    return count_select(scores, limit_counts(counts, min_tokens=min_tokens, max_tokens=max_tokens), mask)


def limit_counts(counts: Tensor, *, min_tokens: int = 0, max_tokens: int | None = None) -> Tensor:
    """Clamp counts to a floor and a cap. The cap wins where they cross."""
    counts = counts.clamp(min=min_tokens)
    return counts if max_tokens is None else counts.clamp(max=max_tokens)


def aggregate(features: Tensor, keep: Tensor, mask: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """One token for all that was dropped: the mean of the dropped features, plain or weighted.

    Args:
        features: ``[B, N, D]``, before the projector (``proj(mean)`` is not ``mean(proj)``).
        keep: ``[B, N]`` bool.
        weights: ``[B, N]`` non-negative, for example the relevance scores; ``None`` is the plain mean (paper eq. 4). A row
            whose dropped weights sum to 0 falls back to the plain mean.

    Returns:
        ``[B, D]`` in the features' dtype; zeros where nothing was dropped.
    """
    rest = ~keep if mask is None else ~keep & mask
    wide = features.to(_score_dtype(features))
    if weights is not None:
        shares = weights.to(wide.dtype).masked_fill(~rest, 0.0)
        flat = shares.sum(dim=1, keepdim=True) <= 0
        rest_weights = torch.where(flat, rest.to(wide.dtype), shares)
        return ((wide * rest_weights.unsqueeze(-1)).sum(dim=1) / _divisor(rest_weights)).to(features.dtype)
    return ((wide * rest.unsqueeze(-1)).sum(dim=1) / _divisor(rest)).to(features.dtype)


def _divisor(weights: Tensor) -> Tensor:
    total = weights.sum(dim=1, keepdim=True)
    return torch.where(total == 0, torch.ones_like(total), total)


def _iqr_fence(scores: Tensor, real: Tensor) -> Tensor:
    """``[B, 1]`` upper fence of the masked rows."""
    ordered = scores.masked_fill(~real, torch.inf).sort(dim=-1).values
    q1, q3 = (_quantile(ordered, real.sum(dim=1), q) for q in (0.25, 0.75))
    return (q3 + 1.5 * (q3 - q1)).unsqueeze(1)


def _quantile(ordered: Tensor, counts: Tensor, q: float) -> Tensor:
    """Linear interpolation at ``q`` among the first ``counts`` of each ascending row."""
    if ordered.shape[1] == 0:
        return ordered.new_zeros(ordered.shape[0])
    position = (counts - 1).clamp(min=0).to(ordered.dtype) * q
    lower = position.floor().long().unsqueeze(1)
    upper = position.ceil().long().unsqueeze(1)
    low, high = ordered.gather(1, lower).squeeze(1), ordered.gather(1, upper).squeeze(1)
    # Interpolating inf with itself would be NaN: a row without tokens keeps +inf, above which nothing lies.
    return torch.where(low == high, low, low + (high - low) * (position - position.floor()))


def _exact(tensor: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """In float64, where comparisons are not a matter of rounding; on the CPU where a device has none (MPS)."""
    return tensor.to("cpu" if tensor.device.type == "mps" else tensor.device, dtype)


def _score_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
