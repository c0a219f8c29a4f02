"""Adapters of the ten methods of ``tests/golden/more``."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.rivals.rivals import Outputs, kept, tokens
from tests.rivals.vectors import Adapter, Vector
from trimkit import EncoderProfile, ImageTokens, get_method
from trimkit.core.layer_read import LayerRead, TextRows
from trimkit.core.tower_plan import TowerRead
from trimkit.core.types import Selection
from trimkit.methods.apet import approximation_errors, farthest_points
from trimkit.methods.flowcut import flow_scores, flow_steps
from trimkit.methods.hiprune import anchors_and_registers
from trimkit.methods.mmtok import coverage_rows, greedy_cover
from trimkit.methods.prunesid import principal_groups
from trimkit.methods.sparsevlm_plus import rope_weights, strongest_heads
from trimkit.methods.vispruner import least_repeated
from trimkit.pipeline.selecting import make_batch

__all__ = ["ADAPTERS"]


def attention(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """``[heads, T, T]`` of queries and keys ``[T, D]``."""
    query, key = (each.unflatten(1, (heads, -1)) for each in (query, key))
    return (torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5).softmax(dim=-1)


def hiprune(vector: Vector) -> Outputs:
    given, parameters = vector.inputs, vector.parameters
    for layer in ("object", "deep"):
        found = attention(given[f"{layer}_q"], given[f"{layer}_k"], parameters["heads"]).mean(dim=(0, 1))[1:]
        torch.testing.assert_close(found, given[f"{layer}_received"])
    layer = parameters["HIPRUNE_OBJECT_LAYER"]
    image = tokens(vector, **{"object_received": f"received@{layer}", "deep_received": "received"})
    side = math.isqrt(len(image))
    image = replace(image, grid=(side, side))
    count, alpha = parameters["HIPRUNE_RETENTION"], parameters["HIPRUNE_ALPHA"]
    selection, found = kept(image, "hiprune", budget=count, alpha=alpha, object_layer=layer)
    received = (given["object_received"], given["deep_received"])
    parts = anchors_and_registers(received[0][None], received[1][None], [count], alpha, [side])
    falling = [each.sort(descending=True, stable=True).indices for each in received]
    return {
        "anchor_indices": falling[0][parts[0][0][falling[0]]],
        "register_indices": falling[1][parts[1][0][falling[1]]],
        "indices": selection.indices,
        "tokens": found,
        "count": len(selection),
    }


def prunesid(vector: Vector) -> Outputs:
    count = vector.parameters["need_token_num"]
    selection, found = kept(tokens(vector, "cls_attention", "cls_state"), "prunesid", budget=count)
    return {
        "groups": principal_groups(vector.inputs["features"], count // 4),
        "indices_in_order": selection.ordered,
        "indices": selection.indices,
        "tokens": found,
        "count": len(selection),
    }


def holov(vector: Vector) -> Outputs:
    """Rows of zeros, for which the source has no patches, are added here."""
    count = vector.parameters["new_image_token_num"]
    options = {"budget": count, "runs": vector.parameters["num_patches"]}
    image = tokens(vector, "cls_attention", "projected")
    selection, _ = kept(image, "holov", rest="empty", **options)
    filled, _ = kept(image, "holov", **options)
    assert len(filled) == count
    assert torch.equal(filled.ordered[: len(selection)], selection.ordered)
    found = vector.inputs["projected"][selection.ordered]
    found = torch.nn.functional.pad(found, (0, 0, 0, count - len(found)))
    indices = {"indices_in_order": selection.ordered, "indices": selection.indices}
    return {**indices, "tokens": found, "count": len(found)}


def mmtok(vector: Vector) -> Outputs:
    given, parameters = vector.inputs, vector.parameters
    count = parameters["target_vision_tokens"]
    options = {
        "alpha": parameters["alpha"],
        "text_temperature": parameters["softmax_tv_temperature"],
        "image_temperature": parameters["softmax_vv_temperature"],
    }
    allowed = torch.ones(len(given["features"]), dtype=torch.bool)
    allowed[given.get("padding_indices", [])] = False
    rows = coverage_rows(given["text_embeddings"], given["projected"], given["features"], **options)
    order = greedy_cover(rows, count, allowed)
    if bool(allowed.all()):
        image = tokens(vector, "projected", text_embeddings="words")
        assert kept(image, "mmtok", budget=count, **options)[0].indices.tolist() == sorted(order.tolist())
    return {"indices_in_order_of_choice": order, "indices": order.sort().values, "count": len(order)}


def vispruner(vector: Vector) -> Outputs:
    count, share = vector.parameters["visual_token_num"], vector.parameters["important_ratio"]
    selection, found = kept(tokens(vector, "cls_attention"), "vispruner", budget=count, important=share)
    falling = vector.inputs["cls_attention"].sort(descending=True, stable=True).indices
    important = int(count * share)
    return {
        "important_indices": falling[:important],
        "diverse_indices": least_repeated(vector.inputs["features"], falling[important:], count - important),
        "indices": selection.indices,
        "tokens": found,
        "count": len(selection),
    }


def apet(vector: Vector) -> Outputs:
    """The first basis token is the one that the source has drawn."""
    features, number = vector.inputs["features"], vector.parameters["basis_token_num"]
    first, count = int(vector.outputs["basis_indices"][0]), vector.parameters["visual_token_num"]
    selection, found = kept(ImageTokens(features), "apet", budget=count, basis=number, first=first)
    basis = farthest_points(features[None], [first], number)
    order = approximation_errors(features[None], basis)[0].sort(descending=True, stable=True).indices[:count]
    return {
        "basis_indices": basis[0],
        "indices_in_order": order,
        "indices": selection.indices,
        "tokens": found,
        "count": len(selection),
    }


def flowcut(vector: Vector) -> Outputs:
    return _whole_tower(vector) if "layers" in vector.parameters else _one_layer(vector)


def _one_layer(vector: Vector) -> Outputs:
    given, heads = vector.inputs, vector.parameters["heads"]
    seen = attention(given["q"], given["k"], heads).mean(dim=0)[0, 1:]
    values, ahead, last = given["v"].unflatten(1, (heads, -1)), vector.parameters["rpl"], 100
    read = TowerRead(last - 2 - ahead, last, len(seen), seen, values, given.get("cumulative"))
    going, scores = flow_steps([read], [vector.parameters["target"]])[0]
    assert going is not None
    states = given["hidden"]
    return {
        "scores": flow_scores(seen, values),
        "indices": going,
        "cumulative_after": scores,
        "tokens": torch.cat([states[:1], states[1:][going]]),
        "count": len(going),
    }


def _whole_tower(vector: Vector) -> Outputs:
    """The tower of the vector: ``h + attention(layer_norm(h)) @ wo``, without an MLP."""
    given, heads, layers = vector.inputs, vector.parameters["heads"], vector.parameters["layers"]
    states, left, carried = given["hidden"], torch.arange(len(given["hidden"]) - 1), None
    lengths, found, total = [len(states)], states, len(left)
    for number in range(layers):
        normed = torch.nn.functional.layer_norm(states, states.shape[1:])
        query, key, value = (normed @ given[name][number] for name in ("wq", "wk", "wv"))
        weights, values = attention(query, key, heads), value.unflatten(1, (heads, -1))
        states = states + torch.einsum("hqk,khd->qhd", weights, values).flatten(1) @ given["wo"][number]
        read = TowerRead(number, layers - 1, total, weights.mean(dim=0)[0, 1:], values, carried)
        going, carried = flow_steps([read], [vector.parameters["target"]])[0]
        if going is not None:
            left, states = left[going], torch.cat([states[:1], states[1:][going]])
        lengths.append(len(states))
        found = states if number == layers - 2 else found
    return {"indices": left, "tokens": found, "lengths": torch.tensor(lengths), "count": len(left)}


def sparsevlm(vector: Vector) -> Outputs:
    selection, rows = _rated(vector, "sparsevlm")
    return _of_raters(vector, selection, rows)


def sparsevlm_plus(vector: Vector) -> Outputs:
    selection, rows = _rated(vector, "sparsevlm-plus")
    queries, keys = _positions(vector)
    distance, head_dim = queries[:, None] - keys[None, :], vector.parameters["head_dim"]
    even = rows.weights / rope_weights(rows.queries[:, None] - rows.keys[None, :], head_dim)
    return {
        **_of_raters(vector, selection, rows),
        "head_indices": strongest_heads(even, len(vector.outputs["head_indices"])).sort().values,
        "rope_weights": rope_weights(distance, head_dim),
    }


def _rated(vector: Vector, name: str) -> tuple[Selection, TextRows]:
    """At one of the three layers; the table of counts is for 576 tokens, whatever is left here."""
    method = get_method(name, budget=vector.parameters["RETAIN_TOKN"], recycle=False)
    raters = method.raters(vector.inputs["image_embeddings"], vector.inputs["text_embeddings"])
    queries, keys = _positions(vector)
    weights = vector.inputs["attention_text_rows_heads"][:, raters]
    rows = TextRows(weights, queries[raters], keys, vector.parameters.get("head_dim", 128), 10000.0)
    stage = [layer - 1 for layer in method.cuts(32)].index(vector.parameters["layer_idx"])
    return _at_cut(vector.inputs["image_embeddings"], method, LayerRead(stage, (576,), (rows,))), rows


def _of_raters(vector: Vector, selection: Selection, rows: TextRows) -> Outputs:
    assert selection.scores is not None
    first = vector.parameters["v_token_start"] + len(vector.inputs["image_embeddings"])
    return {
        "rater_indices": rows.queries - first,
        "scores": selection.scores,
        "indices_in_order": _falling(selection),
        "indices": selection.indices,
        "count": len(selection),
    }


def _positions(vector: Vector) -> tuple[Tensor, Tensor]:
    """Of the text behind the image, and of the image."""
    images, texts = (len(vector.inputs[f"{kind}_embeddings"]) for kind in ("image", "text"))
    keys = torch.arange(images) + vector.parameters["v_token_start"]
    return torch.arange(texts) + vector.parameters["v_token_start"] + images, keys


def pyramiddrop(vector: Vector) -> Outputs:
    given, parameters = vector.inputs, vector.parameters
    hidden, ratios = given["hidden"], tuple(parameters["ratios"][1:])
    first, stage, at_first = parameters["image_start"], parameters["stage"], parameters["image_tokens_at_first"]
    method = get_method("pyramiddrop", ratios=ratios, layers=tuple(range(1, len(ratios) + 1)))
    now = int(at_first * parameters["ratios"][stage])
    states = hidden * (hidden.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()
    query, key = (_rotated(states @ given[name], parameters["heads"]) for name in ("wq", "wk"))
    seen = attention(query, key, parameters["heads"])[:, -1].mean(dim=0)[first : first + now]
    selection = _at_cut(hidden[first : first + now], method, LayerRead(stage, (at_first,)), seen)
    keep = torch.cat([torch.arange(first), selection.indices + first, torch.arange(first + now, len(hidden))])
    return {
        "scores": seen,
        "indices_in_order": _falling(selection),
        "indices": selection.indices,
        "tokens": hidden[keep],
        "count": len(selection),
    }


def _at_cut(features: Tensor, method: Any, read: LayerRead, seen: Tensor | None = None) -> Selection:
    """What a method keeps at one of its cuts inside the language model."""
    batch = make_batch([ImageTokens(features)], None, [None], EncoderProfile())
    attention_to = None if seen is None else seen[None]
    chosen: Selection = method.select(replace(batch, layer=read, attention=attention_to))[0]
    return chosen


def _falling(selection: Selection) -> Tensor:
    assert selection.scores is not None
    return selection.scores.sort(descending=True, stable=True).indices[: len(selection)]


def _rotated(states: Tensor, heads: int) -> Tensor:
    """Rotary embedding of ``[T, D]``, halves rotated, base 10000, positions from 0."""
    split = states.unflatten(1, (heads, -1))
    half = split.shape[-1] // 2
    angles = torch.arange(len(split))[:, None, None] / 10000.0 ** (torch.arange(half) / half)
    low, high = split[..., :half], split[..., half:]
    turned = torch.cat([low * angles.cos() - high * angles.sin(), high * angles.cos() + low * angles.sin()], dim=-1)
    return turned.flatten(1)


ADAPTERS = {
    "apet": Adapter(apet, tolerance=4e-3),  # the source goes on in float16
    "flowcut": Adapter(flowcut),
    "hiprune": Adapter(hiprune),
    "holov": Adapter(holov),
    "mmtok": Adapter(mmtok),
    "prunesid": Adapter(prunesid),
    "pyramiddrop": Adapter(pyramiddrop),
    "sparsevlm": Adapter(sparsevlm),
    "sparsevlm-plus": Adapter(sparsevlm_plus),
    "vispruner": Adapter(vispruner),
}
