"""FastV written out for one prompt of a tiny LLaVA: every layer by hand, in eager attention, without a cache or the library."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlavaForConditionalGeneration, Qwen2Config

from tests import tiny

THETA = 10000.0


def deep_llava(kind: str = "llama", layers: int = 4, kv_heads: int = 2, attention: str = "sdpa") -> Any:
    """A tiny LLaVA on a Llama or a Qwen2 of several layers; weights differ in every layer."""
    config = copy.deepcopy(tiny.llava().config)
    text = {**tiny.TEXT, "num_hidden_layers": layers, "num_key_value_heads": kv_heads}
    config.text_config = (LlamaConfig if kind == "llama" else Qwen2Config)(**text)
    torch.manual_seed(1)
    model = tiny.ready(LlavaForConditionalGeneration(config))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "language_model" in name and name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = None  # answers of one length compare plainly
    return model


@dataclass
class ByHand:
    """``logits`` ``[L, V]``; ``weights`` ``[N]`` of the attention to the image; ``kept`` image tokens; the ``answer``."""

    logits: Tensor
    weights: Tensor
    kept: list[int]
    answer: list[int]


@torch.no_grad()
def by_hand(model: Any, one: dict[str, Tensor], layer: int, counts: list[int], steps: int = 0) -> ByHand:
    """One prompt, of whose images ``counts`` tokens go on from ``layer`` on; and ``steps`` greedy tokens."""
    ids, text = one["input_ids"][0], model.model.language_model
    hidden = text.embed_tokens(ids)
    images = torch.cat(list(model.model.get_image_features(one["pixel_values"], return_dict=True).pooler_output))
    hidden[ids == tiny.IMAGE_TOKEN] = images
    positions, prompt = torch.arange(len(ids)), len(ids)
    places = (ids == tiny.IMAGE_TOKEN).nonzero().squeeze(1)
    kept: list[int] | None = None
    answer: list[int] = []
    first: Tensor | None = None
    for _ in range(max(steps, 1)):
        states, at, before = hidden, positions, hidden
        weights = torch.zeros(0)
        for number, block in enumerate(text.layers):
            if number == layer:
                before = states
                if kept is None:
                    scores = weights[:, prompt - 1, places].mean(dim=0)
                    parts = zip(scores.split(tiny.TOKENS), counts, strict=True)
                    tops = [part.topk(n).indices.sort().values + tiny.TOKENS * i for i, (part, n) in enumerate(parts)]
                    kept = torch.cat(tops).tolist()
                    found = scores
                dropped = set(places.tolist()) - set(places[kept].tolist())
                at = torch.tensor([i for i in range(len(hidden)) if i not in dropped])
                states = states[at]
            states, weights = _layer(block, states, at)
        whole = before.clone()
        whole[at] = states
        logits = model.lm_head(text.norm(whole))
        first = logits if first is None else first
        answer.append(int(logits[-1].argmax()))
        hidden = torch.cat([hidden, text.embed_tokens(torch.tensor(answer[-1:]))])
        positions = torch.arange(len(hidden))
    assert first is not None
    assert kept is not None
    return ByHand(first, found, kept, answer)


def _layer(block: Any, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """A decoder layer on ``[L, D]`` and the ``[heads, L, L]`` weights of its attention."""
    attention, length = block.self_attn, len(states)
    normed = block.input_layernorm(states)
    query, key, value = (
        projection(normed).view(length, -1, attention.head_dim).transpose(0, 1)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = _rotated(query, positions), _rotated(key, positions)
    groups = len(query) // len(key)
    key, value = key.repeat_interleave(groups, dim=0), value.repeat_interleave(groups, dim=0)
    scores = query @ key.transpose(1, 2) / attention.head_dim**0.5
    ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(ahead, -torch.inf).softmax(dim=-1)
    mixed = (weights @ value).transpose(0, 1).reshape(length, -1)
    states = states + attention.o_proj(mixed)
    return states + block.mlp(block.post_attention_layernorm(states)), weights


def _rotated(heads: Tensor, positions: Tensor) -> Tensor:
    half = heads.shape[-1] // 2
    angles = positions[:, None] / THETA ** (torch.arange(half) / half)
    low, high = heads[..., :half], heads[..., half:]
    return torch.cat([low * angles.cos() - high * angles.sin(), high * angles.cos() + low * angles.sin()], dim=-1)
