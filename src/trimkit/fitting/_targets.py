"""What the network is fitted to: the language model's attention, or its answer through a relaxed choice of tokens."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimkit.core.types import ImageTokens, Selection
from trimkit.fitting._divergence import Reader, divergence
from trimkit.fitting._networks import FittedWords
from trimkit.fitting._prompts import answer_logp, kept_embeddings
from trimkit.fitting._records import PairRecord

__all__ = ["Row", "answer_loss", "attention_loss", "attention_target"]

Row = tuple[int, int]
"""Of attention: a side (0 the question, 1 the answer) and a layer."""

_NOISE = 0.5  # scale of the Gumbel noise that lets tokens below the cut be tried
_SLOPE = 1.0  # of the relaxed cut, in units of relevance


def attention_target(pair: PairRecord, rows: Sequence[Row]) -> Tensor:
    """``[N]`` float32 that sums to 1: the mean of the named rows of ``pair.attention``, each softmaxed over the picture."""
    parts = [pair.attention[side, layer].float() for side, layer in rows]
    shares = [part / part.sum().clamp(min=1e-9) for part in parts]
    return torch.stack(shares).mean(dim=0)


def attention_loss(
    network: FittedWords,
    images: Sequence[ImageTokens],
    pairs: Sequence[PairRecord],
    tokenizer: Any,
    rows: Sequence[Row],
) -> Tensor:
    """Kullback-Leibler divergence of the softmaxed relevance from the attention, in nats, mean over pairs."""
    found = network.rank(images, pairs, tokenizer)
    losses = []
    for row, pair in zip(found, pairs, strict=True):
        wanted = attention_target(pair, rows).to(row.device)
        losses.append((wanted * (wanted.clamp(min=1e-9).log() - row.log_softmax(dim=0))).sum())
    return torch.stack(losses).mean()


def answer_loss(
    reader: Reader,
    network: FittedWords,
    images: Sequence[ImageTokens],
    pairs: Sequence[PairRecord],
    tokenizer: Any,
    draw: random.Random,
    shares: tuple[float, float],
) -> Tensor:
    """Divergence of the reduced model's next-token distributions, with a gradient to the relevance of what was kept.

    The highest of relevance plus Gumbel noise are kept. Forward, they are kept as they are. Backward, each is kept by a
    share, the sigmoid of how far it lies above the cut, and for the rest of it the mean of the dropped tokens stands in. The
    budget is drawn anew for each call, uniformly in the logarithm of its share.
    """
    found = network.rank(images, pairs, tokenizer)
    share = math.exp(draw.uniform(math.log(shares[0]), math.log(shares[1])))
    noise = torch.Generator().manual_seed(draw.getrandbits(62))
    selections, gates = [], []
    for row in found:
        selection, gate = _relaxed(row, max(2, round(share * len(row))), noise)
        selections.append(selection)
        gates.append(gate)
    family, model = reader.family, reader.model
    embeddings, kept = kept_embeddings(family, model, images, selections)
    mixed = []
    for whole, gate in zip(embeddings, gates, strict=True):
        own, mean = whole[:-1], whole[-1:]
        weight = gate.to(whole.dtype).unsqueeze(1)
        mixed.append(torch.cat([weight * own + (1 - weight) * mean, mean]))
    rows = answer_logp(family, model, [pair.prompt for pair in pairs], selections, mixed, kept)
    return torch.stack([divergence(row, p.logp, p.tokens) for row, p in zip(rows, pairs, strict=True)]).mean()


def _relaxed(row: Tensor, count: int, noise: torch.Generator) -> tuple[Selection, Tensor]:
    """What is kept of one picture, and by what share ``[k]`` each is: 1 forward, the sigmoid backward."""
    count = min(count, len(row) - 1)
    uniform = torch.rand(len(row), generator=noise).clamp(1e-9, 1 - 1e-9).to(row.device)
    tried = row + _NOISE * -torch.log(-torch.log(uniform))
    top = tried.topk(count + 1)
    kept = top.indices[:count].sort().values
    cut = top.values[count - 1 :].mean()  # with its gradient: relevance that rises everywhere gains nothing
    soft = torch.sigmoid((tried[kept] - cut) / _SLOPE)
    gate = 1.0 + (soft - soft.detach())
    return Selection(indices=kept, total=len(row), aggregated=True), gate
