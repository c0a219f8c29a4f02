"""The rivals written out plainly, from what their published code does, on tensors of one picture; nothing of the library."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Tower", "cdpruner", "dart", "divprune", "prumerge", "run_tower", "visionzip"]


@dataclass
class Tower:
    """What a LLaVA's tower computes of one picture of N patches.

    ``features`` ``[N, D]`` and ``class_state`` ``[D]`` of the last layer but one, ``projected`` ``[N, H]``, ``attention``
    ``[N]`` and ``keys`` ``[N, heads, D / heads]`` of that layer; ``last_query`` ``[D]`` of the class token and ``last_keys``
    ``[1 + N, D]`` of the last layer.
    """

    features: Tensor
    class_state: Tensor
    projected: Tensor
    attention: Tensor
    keys: Tensor
    last_query: Tensor
    last_keys: Tensor


@torch.no_grad()
def run_tower(model: Any, pixels: Tensor) -> Tower:
    """A copy of the tower in eager attention, run whole."""
    tower = copy.deepcopy(model.model.vision_tower)
    tower.set_attn_implementation("eager")
    heard: dict[str, Tensor] = {}
    layers = getattr(tower, "vision_model", tower).encoder.layers
    for name, module in (
        ("keys", layers[-2].self_attn.k_proj),
        ("last_keys", layers[-1].self_attn.k_proj),
        ("last_query", layers[-1].self_attn.q_proj),
    ):
        module.register_forward_hook(lambda _module, _args, out, name=name: heard.update({name: out[0]}))
    out = tower(pixels, output_attentions=True, output_hidden_states=True)
    state, heads = out.hidden_states[-2][0], layers[-2].self_attn.num_heads
    return Tower(
        features=state[1:],
        class_state=state[0],
        projected=model.model.multi_modal_projector(state[1:]),
        attention=out.attentions[-2][0, :, 0, 1:].mean(dim=0),
        keys=heard["keys"][1:].unflatten(1, (heads, -1)),
        last_query=heard["last_query"][0],
        last_keys=heard["last_keys"],
    )


def divprune(tower: Tower, ratio: float) -> tuple[list[int], Tensor]:
    """Indices in raster order, and the tokens."""
    unit = tower.projected.double() / tower.projected.double().norm(dim=1, keepdim=True)
    distance = 1 - unit @ unit.T
    kept = [int(distance.topk(2, dim=0, largest=False).values[1].argmax())]  # the nearest is the token itself
    while len(kept) < round(ratio * len(distance)):
        kept.append(int(distance[kept].amin(dim=0).argmax()))
    return sorted(kept), tower.features[sorted(kept)]


def cdpruner(tower: Tower, signed: Tensor, count: int) -> tuple[list[int], Tensor]:
    """With the cosine of the patches to the question, times the encoder's sign: each time the largest determinant."""
    unit = tower.projected.double() / tower.projected.double().norm(dim=1, keepdim=True)
    signed = signed.double()
    worth = (signed - signed.min() + 1e-6) / (signed.max() - signed.min())
    kernel = worth[:, None] * (unit @ unit.T) * worth
    kept: list[int] = []
    for _ in range(count):
        chosen = kernel[kept][:, kept]
        across = kernel[kept]
        gain = (
            kernel.diagonal() - (across * torch.linalg.solve(chosen, across)).sum(dim=0) if kept else kernel.diagonal()
        )
        gain = gain.clone()
        gain[kept] = -torch.inf
        kept.append(int(gain.argmax()))
    return sorted(kept), tower.features[sorted(kept)]


def visionzip(tower: Tower, dominant: int, contextual: int) -> tuple[list[int], Tensor]:
    """Indices of dominant patches and starts in the order of the tokens, and the tokens, the class token's first."""
    top = sorted(tower.attention.topk(dominant - 1).indices.tolist())
    others = [i for i in range(len(tower.features)) if i not in top]
    starts = others[:: len(others) // contextual][:contextual]
    keys = torch.nn.functional.normalize(tower.keys.mean(dim=1), dim=1)
    joined: dict[int, list[int]] = {start: [] for start in starts}
    for i in others:
        if i not in joined:
            joined[max(starts, key=lambda start: float(keys[i] @ keys[start]))].append(i)
    tokens = [tower.class_state, *tower.features[top]]
    for start, members in joined.items():
        token = tower.features[start]
        tokens.append(token + tower.features[members].mean(dim=0) if members else token)
    return top + starts, torch.stack(tokens)


def prumerge(tower: Tower, *, plus: bool = False) -> tuple[list[int], Tensor]:
    """Adaptive: indices in the order of the tokens, and the tokens, the last one that of the dropped."""
    width, total = tower.last_keys.shape[1], len(tower.features)
    attention = (tower.last_query @ tower.last_keys.T * width**-0.5).softmax(dim=0)[1:]
    low, high = torch.quantile(attention.double(), torch.tensor([0.25, 0.75], dtype=torch.float64))
    share = int((attention > high + 1.5 * (high - low)).sum()) / total
    kept = attention.topk(int(total * share)).indices.tolist()
    if plus:
        kept += [i for i in range(0, total - 1, int(int(1 / share) / 3)) if i not in kept]
    keys = torch.nn.functional.normalize(tower.last_keys[1:], dim=1)
    tokens = []
    for i in kept:
        similar = keys @ keys[i]
        similar[i] = -torch.inf
        nearest = similar.topk(32).indices
        tokens.append(tower.features[i] + (attention[nearest, None] * tower.features[nearest]).sum(dim=0))
    rest = [i for i in range(total) if i not in kept]
    tokens.append((attention[rest, None] * tower.features[rest]).sum(dim=0))
    return kept, torch.stack(tokens)


@torch.no_grad()
def dart(model: Any, inputs: dict[str, Tensor], image_token: int, budget: int) -> list[int]:
    """Of one prompt with one picture, with four pivots of each kind at the second layer."""
    out = model(**inputs, use_cache=True, output_hidden_states=True)
    keys = out.past_key_values.layers[1].keys[0].transpose(0, 1).flatten(1)
    states = torch.nn.functional.normalize(model.model.language_model.norm(out.hidden_states[2][0]), dim=1)
    norms = keys.abs().sum(dim=1).tolist()
    places = (inputs["input_ids"][0] == image_token).nonzero().squeeze(1).tolist()
    behind = list(range(places[-1] + 1, len(norms)))
    own = sorted(places, key=lambda place: -norms[place])[:4]
    text = sorted(behind, key=lambda place: -norms[place])[:4]
    left, kept = [place for place in places if place not in own], list(own)
    for pivot in list(set(own + text).copy()):
        similar = (states @ states[pivot]).tolist()
        nearest = sorted(left, key=lambda place, similar=similar: similar[place])[: budget // 8]
        kept += nearest
        left = [place for place in left if place not in nearest]
    return sorted(place - places[0] for place in kept)
