"""How far two next-token distributions lie apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["js_divergence", "kl_divergence"]


def js_divergence(logp: Tensor, logq: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats, 0 to ln 2: the mean of both sides' KL divergence from their average.

    Source: Lin, Divergence measures based on the Shannon entropy, 1991, https://doi.org/10.1109/18.61115.

    Args:
        logp, logq: ``[..., V]`` log-probabilities; -inf is probability 0.

    Returns:
        ``[...]``.
    """
    middle = torch.logaddexp(logp, logq) - math.log(2.0)
    return ((kl_divergence(logp, middle) + kl_divergence(logq, middle)) / 2).clamp(min=0.0)


def kl_divergence(logp: Tensor, logq: Tensor) -> Tensor:
    """Kullback-Leibler divergence of ``logq`` from ``logp`` in nats, over the last dimension; both are log-probabilities."""
    terms = torch.where(logp == -torch.inf, torch.zeros_like(logp), logp.exp() * (logp - logq))
    return terms.sum(dim=-1)
