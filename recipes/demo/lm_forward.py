"""Llama over one image prefix and many question blocks: every block sees the prefix and itself, so the prefix is paid once.

Same weights and same result as the stock forward on [prefix, block] for each block; only the bookkeeping differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

BLOCKED = -1e4  # added to attention scores of what must not be seen; finite, so that padding rows stay finite


@dataclass
class Blocks:
    """Question blocks of one padded length: ids [b, q, l] right-padded; `read` [b, q] is the last prompt token's index."""

    ids: Tensor
    read: Tensor


def _rope(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    frequencies = theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = positions.float()[..., None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def _causal(length: int) -> Tensor:
    return torch.full((length, length), BLOCKED).triu(1)


@dataclass
class _Layout:
    """Where the flat token axis holds the prefix [b, p] and each group [b, q, l], and what each may see."""

    batch: int
    prefix: int
    groups: list[tuple[int, int]]
    pad: Tensor  # [b, 1, 1, p], added to scores over the prefix

    def split(self, flat: Tensor) -> list[Tensor]:
        sizes = [self.batch * self.prefix] + [self.batch * q * length for q, length in self.groups]
        return list(flat.split(sizes))


def _heads(x: Tensor, shape: tuple[int, ...], heads: int) -> Tensor:
    """Flat [tokens, width] as [b, heads, ..., d] for tokens laid out as `shape` = (b, ...)."""
    x = x.view(*shape, heads, x.shape[-1] // heads)
    return x.movedim(-2, 1)


def _attend_prefix(q: Tensor, k: Tensor, v: Tensor, pad: Tensor) -> Tensor:
    """Causal attention within the prefix, [b, h, p, d] each; returns [tokens, width]."""
    scores = torch.matmul(q, k.transpose(-1, -2))
    scores = scores + (_causal(k.shape[2]) + pad).to(scores.dtype)
    return torch.matmul(scores.softmax(-1), v).transpose(1, 2).flatten(2).flatten(0, 1)


def _attend_block(
    q: Tensor, own: tuple[Tensor, Tensor], prefix: tuple[Tensor, Tensor], pad: Tensor, mask: Tensor
) -> Tensor:
    """Attention of block queries [b, h, n, m, d] over the prefix [b, h, p, d] and their own block [b, h, n, l, d]."""
    flat = q.flatten(2, 3)
    over_prefix = torch.matmul(flat, prefix[0].transpose(-1, -2)) + pad.to(flat.dtype)
    over_block = torch.matmul(q, own[0].transpose(-1, -2)) + mask.to(flat.dtype)
    size = over_prefix.shape[-1]
    weights = torch.cat([over_prefix.view(*over_block.shape[:-1], size), over_block], dim=-1).softmax(-1)
    from_prefix = torch.matmul(weights[..., :size].flatten(2, 3), prefix[1]).view_as(q)
    mixed = from_prefix + torch.matmul(weights[..., size:], own[1])
    return mixed.movedim(1, -2).flatten(-2)  # b n m width


def _divergence(shares: Tensor, logs: Tensor) -> Tensor:
    """Of log attention [n, h, p] from the wanted shares [n, p], which need not sum to one."""
    shares = (shares / shares.sum(-1, keepdim=True))[:, None]
    return (shares * (shares.clamp(min=1e-6).log() - logs)).sum(-1).mean()


@dataclass
class Watch:
    """A training aid: in the first layers some heads of a token that names something should look at that thing's patches.

    label and hue [b, p] are class and disc colour of each prefix token (0 none), named and coloured [vocab] what a token
    names (0 none). A head spends as much on each such thing, large or small; where the picture has none, it looks at the
    first token. One more head counts: it spends as much on the first token as on each such thing, so that what is left to
    the first token tells how many there are. Later, the answering token should look where `looked_at` [b, q, l] of its
    group says, or else at the sign; last, at the cell of a page that holds the answer.
    Without this it is found only after very long.
    """

    label: Tensor
    hue: Tensor
    part: Tensor  # [b, p], 1 / patches of the thing it belongs to
    named: Tensor
    coloured: Tensor
    discs: list[Tensor]  # of each group [b, q, l]: the tokens that should look at every disc
    looked_at: list[Tensor]
    spots: list[Tensor] | None  # of each group [b, n, p]: what the answer is read off, or None where that is not known
    first_word: int  # classes from here on are words on signs
    losses: list[Tensor]
    counted: list[Tensor]
    naming: tuple[int, ...] = (0, 1)  # the layers
    reading: tuple[int, ...] = (3, 4)
    heads: int = 2
    counters: int = 1
    limit: int = 800

    def add(self, q: Tensor, own: Tensor, prefix: Tensor, pad: Tensor, group: Blocks, number: int) -> None:
        """q and own keys [b, h, n, l, d], prefix keys [b, h, p, d]."""
        heads = self.heads + self.counters
        q, own, prefix = q[:, :heads], own[:, :heads], prefix[:, :heads]
        past = torch.arange(group.ids.shape[2]) <= group.read[..., None]
        classes, hues = self.named[group.ids] * past, self.coloured[group.ids] * past
        discs = self.discs[number]
        row, block, place = (classes + hues + discs.long()).nonzero()[: self.limit].unbind(1)
        over_prefix = (torch.matmul(q.flatten(2, 3), prefix.transpose(-1, -2)) + pad.to(q.dtype)).view(*q.shape[:4], -1)
        over_block = torch.matmul(q, own.transpose(-1, -2)) + _causal(group.ids.shape[2]).to(q.dtype)
        scores = torch.cat([over_prefix[row, :, block, place], over_block[row, :, block, place]], dim=-1).float()
        cls, hue = classes[row, block, place][:, None], hues[row, block, place][:, None]
        wanted = ((self.label[row] == cls) & (cls > 0)) | ((self.hue[row] == hue) & (hue > 0))
        wanted |= (self.hue[row] > 0) & discs[row, block, place][:, None]
        logs = scores.log_softmax(-1)[..., : wanted.shape[1]]
        shares = wanted * self.part[row]
        shares[:, 0] = ~wanted.any(dim=1)
        self.losses.append(_divergence(shares, logs[:, : self.heads]))
        shares[:, 0] = 1.0
        self.counted.append(_divergence(shares, logs[:, self.heads :]))

    def add_read(
        self, q: Tensor, own: Tensor, prefix: Tensor, pad: Tensor, group: Blocks, number: int, last: bool
    ) -> None:
        """The same for the answering tokens of group `number`."""
        q, own, prefix = q[:, : self.heads], own[:, : self.heads], prefix[:, : self.heads]
        at = group.read[:, None, :, None, None].expand(-1, self.heads, -1, 1, q.shape[-1])
        asking = q.gather(3, at)  # b h n 1 d
        over_prefix = (torch.matmul(asking[:, :, :, 0], prefix.transpose(-1, -2)) + pad.to(q.dtype)).float()
        over_block = torch.matmul(asking, own.transpose(-1, -2))[:, :, :, 0].float()
        past = torch.arange(group.ids.shape[2]) <= group.read[..., None]  # b n l
        over_block = over_block.masked_fill(~past[:, None], -1e9)
        told = self.looked_at[number]
        sign = (self.label >= self.first_word)[:, None, :] & ~told.any(-1, keepdim=True)
        wanted = torch.cat([sign, told], dim=-1)
        if last and self.spots is not None:
            spot = F.pad(self.spots[number], (0, told.shape[-1]))
            wanted = torch.where(spot.any(-1, keepdim=True), spot, wanted)
        scores = torch.cat([over_prefix, over_block], dim=-1)
        hit = scores.masked_fill(~wanted[:, None], -1e9).logsumexp(-1)
        some = wanted.any(-1)[:, None].expand_as(hit)
        self.losses.append((scores.logsumexp(-1) - hit)[some].mean())


class _Layers:
    """Runs decoder layers on one flat token axis laid out by a _Layout."""

    def __init__(self, config: LlamaConfig, layout: _Layout, positions: Tensor) -> None:
        self.heads, self.width, self.eps = config.num_attention_heads, config.head_dim, config.rms_norm_eps
        self.layout = layout
        dtype = torch.bfloat16 if torch.is_autocast_enabled(positions.device.type) else torch.float32
        self.turns = [
            t[:, None, :].to(dtype) for t in _rope(positions, self.width, config.rope_parameters["rope_theta"])
        ]
        self.shapes = [(layout.batch, layout.prefix), *((layout.batch, q, length) for q, length in layout.groups)]

    def _parts(self, flat: Tensor) -> list[Tensor]:
        return [_heads(x, shape, self.heads) for x, shape in zip(self.layout.split(flat), self.shapes, strict=True)]

    def _turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return _rotate(x.view(-1, self.heads, self.width), cos, sin).flatten(1)

    def whole(
        self, number: int, layer: LlamaDecoderLayer, x: Tensor, groups: list[Blocks], watch: Watch | None
    ) -> Tensor:
        attention = layer.self_attn
        y = _norm(x, layer.input_layernorm.weight, self.eps)
        qs = self._parts(self._turn(attention.q_proj(y), *self.turns) * self.width**-0.5)
        ks = self._parts(self._turn(attention.k_proj(y), *self.turns))
        vs = self._parts(attention.v_proj(y))
        out = [_attend_prefix(qs[0], ks[0], vs[0], self.layout.pad)]
        for i, (group, q, k, v) in enumerate(zip(groups, qs[1:], ks[1:], vs[1:], strict=True)):
            if watch is not None and number in watch.naming:
                watch.add(q, k, ks[0], self.layout.pad, group, i)
            elif watch is not None and number in watch.reading:
                watch.add_read(q, k, ks[0], self.layout.pad, group, i, number == watch.reading[-1])
            mixed = _attend_block(q, (k, v), (ks[0], vs[0]), self.layout.pad, _causal(k.shape[3]))
            out.append(mixed.flatten(0, 2))
        x = x + attention.o_proj(torch.cat(out))
        return x + layer.mlp(_norm(x, layer.post_attention_layernorm.weight, self.eps))

    def reading(self, layer: LlamaDecoderLayer, x: Tensor, groups: list[Blocks]) -> list[Tensor]:
        """The last layer, only at the tokens that are read: [b, q, 2, width] for each group."""
        attention = layer.self_attn
        y = _norm(x, layer.input_layernorm.weight, self.eps)
        ks = self._parts(self._turn(attention.k_proj(y), *self.turns))
        vs = self._parts(attention.v_proj(y))
        splits = [self.layout.split(t)[1:] for t in (x, y, *(t[:, 0] for t in self.turns))]
        out = []
        for i, group in enumerate(groups):
            at = torch.stack([group.read, group.read + 1], dim=-1)
            rows = torch.arange(at[..., 0].numel())[:, None] * group.ids.shape[2] + at.flatten(0, 1)
            here, normed, cos, sin = (s[i][rows.flatten()] for s in splits)
            q = self._turn(attention.q_proj(normed), cos[:, None], sin[:, None]) * self.width**-0.5
            later = torch.arange(group.ids.shape[2]) > at[..., None]  # b q 2 l
            mask = later[:, None].float() * BLOCKED
            mixed = _attend_block(
                _heads(q, tuple(at.shape), self.heads), (ks[i + 1], vs[i + 1]), (ks[0], vs[0]), self.layout.pad, mask
            )
            here = here + attention.o_proj(mixed.flatten(0, 2))
            here = here + layer.mlp(_norm(here, layer.post_attention_layernorm.weight, self.eps))
            out.append(here.view(*at.shape, -1))
        return out


def answer_states(
    model: LlavaForConditionalGeneration,
    prefix: Tensor,
    real: Tensor,
    groups: list[Blocks],
    watch: Watch | None = None,
    taps: tuple[int, ...] = (),
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Final hidden states [b, q, 2, width] at each block's last prompt token and at the token after it.

    prefix [b, p, width] is left-padded, real [b, p] marks what is no padding. Also, for each layer number in `taps`, the
    states after it: of the prefix [b, p, width], then of every group [b, q, l, width].
    """
    language = model.model.language_model
    lengths = real.sum(dim=1)
    layout = _Layout(
        batch=len(prefix),
        prefix=prefix.shape[1],
        groups=[(g.ids.shape[1], g.ids.shape[2]) for g in groups],
        pad=(~real).float()[:, None, None, :] * BLOCKED,
    )
    positions = [(real.cumsum(dim=1) - 1).clamp(min=0).flatten()]
    flat = [prefix.reshape(-1, prefix.shape[-1])]
    for group in groups:
        positions.append((lengths[:, None, None] + torch.arange(group.ids.shape[2])).expand_as(group.ids).flatten())
        flat.append(language.embed_tokens(group.ids).flatten(0, 2))
    layers = _Layers(language.config, layout, torch.cat(positions))
    x = torch.cat(flat)
    tapped = []
    for i, layer in enumerate(language.layers[:-1]):
        x = layers.whole(i, layer, x, groups, watch)
        if i in taps:
            shapes = [prefix.shape[:2], *(g.ids.shape for g in groups)]
            tapped.append([t.view(*shape, -1) for t, shape in zip(layout.split(x), shapes, strict=True)])
    read = layers.reading(language.layers[-1], x, groups)
    return [_norm(states, language.norm.weight, language.config.rms_norm_eps) for states in read], tapped
