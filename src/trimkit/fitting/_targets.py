"""What the network is fitted to: the language model's attention, or its answer through a relaxed choice of tokens."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trimkit.core.types import ImageTokens, Selection
from trimkit.fitting._divergence import Reader, divergence
from trimkit.fitting._guard import guard_method
from trimkit.fitting._networks import FittedWords
from trimkit.fitting._prompts import answer_logp, kept_embeddings
from trimkit.fitting._records import PairRecord
from trimkit.fitting._settings import BUDGETS

__all__ = ["answer_loss", "attention_loss", "attention_target", "choose_layers", "layer_prompts"]

_MOST_LAYERS = 4  # layers and sides whose attention is averaged
_CANDIDATES = 16  # the best alone, among which others are looked for
_NOISE = 0.5  # scale of the Gumbel noise that lets tokens below the cut be tried
_SLOPE = 1.0  # of the relaxed cut, in units of relevance


def attention_target(pair: PairRecord, rows: Sequence[tuple[int, int]]) -> Tensor:
    """``[N]`` float32 that sums to 1: the mean of the named rows of ``pair.attention``, each softmaxed over the picture."""
    parts = [pair.attention[side, layer].float() for side, layer in rows]
    shares = [part / part.sum().clamp(min=1e-9) for part in parts]
    return torch.stack(shares).mean(dim=0)


def choose_layers(
    reader: Reader, pairs: Sequence[tuple[int, int]], advance: Callable[[int], None]
) -> list[tuple[int, int]]:
    """Sides (0 the question, 1 the answer) and layers whose mean attention leaves the model's answer nearest.

    First the one whose highest tokens do, kept by ``focus``; then, up to four, the one that brings the mean nearest together
    with those before, as long as one does. Sides and layers look at different things: some at all that is named, some at what
    is answered, so that the best few alone can be worse than few that complete each other.

    Args:
        reader: asks the model.
        pairs: to compare on.
        advance: called with the number of prompts done.
    """
    first = reader.store.get(pairs[0][0]).pairs[pairs[0][1]].attention
    rows = [(side, layer) for side in range(2) for layer in range(first.shape[1])]
    method = guard_method(BUDGETS[-1])

    def far(chosen: list[tuple[int, int]]) -> float:
        def rank(images: Sequence[ImageTokens], questions: Sequence[PairRecord]) -> list[Tensor]:
            return [attention_target(each, chosen).clamp(min=1e-9).log() for each in questions]

        found = float(reader.measure(pairs, rank, method)[0].mean())
        advance(len(pairs))
        return found

    alone = {row: far([row]) for row in rows}
    left = sorted(rows, key=lambda row: alone[row])[:_CANDIDATES]
    found = [left.pop(0)]
    lowest = alone[found[0]]
    while left and len(found) < _MOST_LAYERS:
        tried = {row: far([*found, row]) for row in left}
        best = min(left, key=lambda row: tried[row])
        if tried[best] >= lowest:
            break
        lowest = tried[best]
        left.remove(best)
        found.append(best)
    return sorted(found)


def layer_prompts(layers: int, pairs: int) -> int:
    """How many prompts ``choose_layers`` asks at most, of a model of so many layers."""
    rows = 2 * layers
    left = min(rows, _CANDIDATES)
    return pairs * (rows + sum(max(left - taken, 0) for taken in range(1, _MOST_LAYERS)))


def attention_loss(
    network: FittedWords,
    images: Sequence[ImageTokens],
    pairs: Sequence[PairRecord],
    tokenizer: Any,
    rows: Sequence[tuple[int, int]],
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
