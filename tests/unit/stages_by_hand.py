"""Methods that cut at several layers, written out for one prompt with one image of a tiny LLaVA: no cache, no library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests import tiny
from tests.unit.fastv_by_hand import _layer

Decide = Callable[["Cut"], Tensor]


@dataclass
class Cut:
    """What there is to decide by, before layer ``layer``: the prompt's states ``[n, D]``, and where the image stands in it."""

    layer: int
    states: Tensor
    image: list[int]
    embeddings: Tensor
    before: Tensor  # [heads, n, n] attention of the layer before
    after: Tensor  # the same of the layer itself, on what it would see


@dataclass
class Hand:
    """``logits`` ``[V]`` behind the prompt, the ``answer``, and how long the prompt is in every layer."""

    logits: Tensor
    answer: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)


@torch.no_grad()
def by_hand(model: Any, one: dict[str, Tensor], cuts: dict[int, Decide], *, renumber: bool, steps: int) -> Hand:
    """Greedy tokens. ``cuts`` gives, before a layer, the rows that mix the prompt's states into those that go on."""
    ids, text = one["input_ids"][0], model.model.language_model
    embeddings = text.embed_tokens(ids)
    places = (ids == tiny.IMAGE_TOKEN).nonzero().squeeze(1).tolist()
    embeddings[places] = torch.cat(
        list(model.model.get_image_features(one["pixel_values"], return_dict=True).pooler_output)
    )
    hidden, rows, out = embeddings, dict[int, Tensor](), Hand(torch.zeros(0))
    for step in range(steps):
        states, at, image, prompt = hidden, torch.arange(len(hidden)), places, len(ids)
        weights = torch.zeros(0)
        for number, block in enumerate(text.layers):
            if number in cuts:
                if step == 0:
                    following = _layer(block, states, at)[1]
                    cut = Cut(number, states[:prompt], image, embeddings, weights, following)
                    rows[number] = cuts[number](cut)
                mixed = rows[number]
                states = torch.cat([mixed @ states[:prompt], states[prompt:]])
                stands = mixed.argmax(dim=1)
                image = [i for i, from_ in enumerate(stands.tolist()) if from_ in image]
                at = torch.cat([at[stands], at[prompt:]])
                at = torch.arange(len(states)) if renumber else at
                prompt = len(mixed)
            out.lengths += [prompt] if step == 0 else []
            states, weights = _layer(block, states, at)
        logits = model.lm_head(text.norm(states))[-1]
        out.logits = logits if step == 0 else out.logits
        out.answer.append(int(logits.argmax()))
        hidden = torch.cat([hidden, text.embed_tokens(torch.tensor(out.answer[-1:]))])
    return out


def keeping(cut: Cut, kept: list[int]) -> Tensor:
    """Rows that leave the text, and of the image what stands in ``kept`` (numbers into ``cut.image``)."""
    gone = set(cut.image) - {cut.image[i] for i in kept}
    return torch.eye(len(cut.states))[[i for i in range(len(cut.states)) if i not in gone]]


def pyramiddrop(count: int) -> Decide:
    """Keep what the prompt's last token attends to most in the layer that comes."""

    def decide(cut: Cut) -> Tensor:
        scores = cut.after[:, -1, cut.image].mean(dim=0)
        return keeping(cut, scores.topk(count).indices.tolist())

    return decide


def raters(cut: Cut) -> list[int]:
    """Text tokens behind the image (counted from its end in the uncut prompt) that agree with it more than the mean one."""
    first = min(cut.image)
    image, text = cut.embeddings[first : first + tiny.TOKENS], cut.embeddings[first + tiny.TOKENS :]
    agreement = (image @ text.T).softmax(dim=1).mean(dim=0)
    return (agreement > agreement.mean()).nonzero().squeeze(1).tolist()


def sparsevlm(count: int, *, clusters: bool) -> Decide:
    """Keep what the raters attend to most, and clusters of the best of the rest behind the image."""

    def decide(cut: Cut) -> Tensor:
        rows = [max(cut.image) + 1 + i for i in raters(cut)]
        scores = cut.before[:, rows][:, :, cut.image].mean(dim=(0, 1))
        kept = scores.topk(count).indices.tolist()
        plain = keeping(cut, kept)
        if not clusters:
            return plain
        dropped = sorted(set(range(len(cut.image))) - set(kept), key=lambda i: -float(scores[i]))
        members = sorted(cut.image[i] for i in dropped[: int(0.3 * len(dropped)) + 1])
        groups = density_peaks(cut.states[members], int(len(members) / 10) + 1)
        means = torch.zeros(len(groups), len(cut.states))
        for row, group in zip(means, groups, strict=True):
            row[[members[i] for i in group]] = 1 / len(group)
        end = min(cut.image) + count
        return torch.cat([plain[:end], means, plain[end:]])

    return decide


def sparsevlm_plus(count: int, head_dim: int, heads: int) -> Decide:
    """As ``sparsevlm``, with the decay of rotary embeddings taken out, by the strongest heads. Nothing is numbered anew."""

    def decide(cut: Cut) -> Tensor:
        own = torch.arange(len(cut.embeddings))
        alive = torch.tensor(cut.image)  # the first cut: columns are positions
        assert len(cut.states) == len(own), "written for the first cut"
        rows = torch.tensor([max(cut.image) + 1 + i for i in raters(cut)])
        weights = cut.before[:, rows][:, :, alive]
        for i, row in enumerate(rows.tolist()):
            for j, column in enumerate(alive.tolist()):
                waves = [1e4 ** (-2 * t / head_dim) for t in range(head_dim // 2)]
                decay = 2 / head_dim**0.5 * sum(float(torch.tensor((row - column) * wave).cos()) for wave in waves)
                weights[:, i, j] /= decay
        strong = weights.sum(dim=(1, 2)).topk(heads).indices
        return keeping(cut, weights[strong].mean(dim=(0, 1)).topk(count).indices.tolist())

    return decide


def density_peaks(states: Tensor, count: int) -> list[list[int]]:
    """Members of each cluster, those of the first center first."""
    size = range(len(states))
    distance = [[float((states[i] - states[j]).norm()) / states.shape[1] ** 0.5 for j in size] for i in size]
    density = [float(torch.tensor([-sum(d * d for d in sorted(distance[i])[:count]) / count]).exp()) for i in size]
    far = max(max(row) for row in distance)
    gap = [min((distance[i][j] for j in size if density[j] > density[i]), default=far) for i in size]
    centers = sorted(size, key=lambda i: -gap[i] * density[i])[:count]
    nearest = [
        min(range(count), key=lambda c: (i != centers[c], 0) if i in centers else (0, distance[i][centers[c]]))
        for i in size
    ]
    return [[i for i in size if nearest[i] == c] for c in range(count)]
