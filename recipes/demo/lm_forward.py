"""Llama over one image prefix and many question blocks: every block sees the prefix and itself, so the prefix is paid once.

Same weights and same result as the stock forward on [prefix, block] for each block; only the bookkeeping differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration

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


def _attend(q: Tensor, k: Tensor, v: Tensor, layout: _Layout, heads: int) -> Tensor:
    """Attention on flat [tokens, width] queries, keys, values; returns the same flat shape."""
    width = q.shape[-1] // heads
    scale = width**-0.5
    qs, ks, vs = layout.split(q), layout.split(k), layout.split(v)

    def prefix_view(x: Tensor) -> Tensor:
        return x.view(layout.batch, layout.prefix, heads, width).transpose(1, 2)

    kp, vp = prefix_view(ks[0]), prefix_view(vs[0])
    scores = torch.matmul(prefix_view(qs[0]) * scale, kp.transpose(-1, -2))
    scores = scores + (_causal(layout.prefix) + layout.pad).to(scores.dtype)
    out = [torch.matmul(scores.softmax(-1), vp).transpose(1, 2).reshape(-1, heads * width)]
    for i, (count, length) in enumerate(layout.groups, start=1):
        shape = (layout.batch, count, length, heads, width)
        qb, kb, vb = (x.view(shape).permute(0, 3, 1, 2, 4) for x in (qs[i] * scale, ks[i], vs[i]))  # b h q l d
        flat = qb.reshape(layout.batch, heads, count * length, width)
        over_prefix = torch.matmul(flat, kp.transpose(-1, -2)) + layout.pad.to(flat.dtype)
        over_block = torch.matmul(qb, kb.transpose(-1, -2)) + _causal(length).to(flat.dtype)
        over_prefix = over_prefix.view(layout.batch, heads, count, length, layout.prefix)
        weights = torch.cat([over_prefix, over_block], dim=-1).softmax(-1)
        from_prefix = torch.matmul(weights[..., : layout.prefix].flatten(2, 3), vp).view_as(qb)
        mixed = from_prefix + torch.matmul(weights[..., layout.prefix :], vb)
        out.append(mixed.permute(0, 2, 3, 1, 4).reshape(-1, heads * width))
    return torch.cat(out)


def answer_states(
    model: LlavaForConditionalGeneration, prefix: Tensor, real: Tensor, groups: list[Blocks]
) -> list[Tensor]:
    """Final hidden states [b, q, 2, width] at each block's last prompt token and at the token after it.

    prefix [b, p, width] is left-padded, real [b, p] marks what is no padding.
    """
    language = model.model.language_model
    config = language.config
    heads, eps, width = config.num_attention_heads, config.rms_norm_eps, config.head_dim
    theta = config.rope_parameters["rope_theta"]
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
    x = torch.cat(flat)
    cos, sin = (t[:, None, :].to(torch.bfloat16) if torch.is_autocast_enabled("cpu") else t[:, None, :]
                for t in _rope(torch.cat(positions), width, theta))  # fmt: skip
    for layer in language.layers:
        y = _norm(x, layer.input_layernorm.weight, eps)
        attention = layer.self_attn
        q, k = (_rotate(p(y).view(-1, heads, width), cos, sin).flatten(1) for p in (attention.q_proj, attention.k_proj))
        x = x + attention.o_proj(_attend(q, k, attention.v_proj(y), layout, heads))
        x = x + layer.mlp(_norm(x, layer.post_attention_layernorm.weight, eps))
    states = []
    for group, part in zip(groups, layout.split(x)[1:], strict=True):
        part = part.view(*group.ids.shape, -1)
        at = torch.stack([group.read, group.read + 1], dim=-1)
        states.append(
            _norm(part.gather(2, at[..., None].expand(-1, -1, -1, part.shape[-1])), language.norm.weight, eps)
        )
    return states
