"""Adapters of the nine methods of ``tests/golden/rivals``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.rivals.vectors import Adapter, Vector
from trimkit import EncoderProfile, ImageTokens, get_method
from trimkit.core.types import Selection
from trimkit.methods.dart_llm import Dart, visited
from trimkit.pipeline.selecting import make_batch, reduced_features

__all__ = ["ADAPTERS", "kept", "tokens"]

Outputs = Mapping[str, Tensor | int]


def tokens(vector: Vector, *names: str, **renamed: str) -> ImageTokens:
    """The vector's patches with signals: those of ``names`` under their own, others under the name of the argument's value."""
    signals = {**{name: name for name in names}, **{value: name for name, value in renamed.items()}}
    given = {signal: vector.inputs[name] for signal, name in signals.items()}
    own = {name: given.pop(name, None) for name in ("cls_attention", "keys")}
    return ImageTokens(vector.inputs["features"], signals=given, **own)


def kept(image: ImageTokens, method: str, relevance: Tensor | None = None, **options: Any) -> tuple[Selection, Tensor]:
    """What a method keeps of an image, and the tokens in the order of the language model."""
    profile = EncoderProfile(sign=-1)
    batch = make_batch([image], None if relevance is None else [relevance], ["question"], profile)
    selection = get_method(method, **options).select(batch)[0]
    return selection, reduced_features(image, selection)


def cls_attention(vector: Vector) -> Outputs:
    count = vector.parameters["visual_token_num"]
    selection, found = kept(tokens(vector, "cls_attention"), "cls-attention", budget=count)
    return {"indices": selection.indices, "tokens": found, "count": len(selection)}


def divprune(vector: Vector) -> Outputs:
    image = ImageTokens(vector.inputs["features"], signals={"projected": vector.inputs["features"]})
    return _in_order(image, "divprune", budget=vector.parameters["ratio"])


def scope(vector: Vector) -> Outputs:
    assert vector.parameters["combined"] == "multi"
    options = {"budget": vector.parameters["num_selected_token"], "alpha": vector.parameters["alpha"]}
    return _in_order(tokens(vector, "cls_attention"), "scope", **options)


def cdpruner(vector: Vector) -> Outputs:
    patches, segments = (
        torch.nn.functional.normalize(vector.inputs[name], dim=-1) for name in ("image_embeds", "text_embeds")
    )
    relevance = (patches @ segments.T).mean(dim=1)
    torch.testing.assert_close(relevance, vector.inputs["relevance"])
    count = vector.parameters["visual_token_num"]
    return _in_order(tokens(vector, "projected"), "cdpruner", relevance, budget=count)


def _in_order(image: ImageTokens, method: str, relevance: Tensor | None = None, **options: Any) -> Outputs:
    """With the order of choice: a greedy method keeps with one token more what it kept before, and one."""
    selection, _ = kept(image, method, relevance, **options)
    order: list[int] = []
    for count in range(1, len(selection) + 1):
        more = kept(image, method, relevance, **{**options, "budget": count})[0].indices.tolist()
        (new,) = (Counter(more) - Counter(order)).elements()
        order.append(new)
    return {
        "indices": selection.indices,
        "indices_in_order_of_choice": torch.tensor(order),
        "count": len(selection),
    }


def visionzip(vector: Vector) -> Outputs:
    dominant, contextual = vector.parameters["dominant"], vector.parameters["contextual"]
    total = dominant + contextual
    image = tokens(vector, "cls_attention", "keys", "cls_state", keys_head_mean="keys_mean")
    selection, found = kept(image, "visionzip", budget=total, dominant=dominant / total)
    return {
        "dominant_indices": selection.ordered[: dominant - 1],
        "contextual_start_indices": selection.ordered[dominant - 1 :],
        "tokens": found,
        "count": len(selection),
    }


def prumerge(vector: Vector) -> Outputs:
    return _prumerge(vector, "prumerge")


def prumerge_plus(vector: Vector) -> Outputs:
    training = not vector.parameters["if_adaptive"]
    return _prumerge(vector, "prumerge-plus", samples="training" if training else "adaptive")


def _prumerge(vector: Vector, name: str, **options: Any) -> Outputs:
    image = tokens(vector, cls_attention="cls_attention_wide@-1", keys="keys@-1")
    budget = "iqr" if vector.parameters["if_adaptive"] else vector.parameters["reduction_ratio"]
    options = {**options, "budget": budget, "neighbors": vector.parameters["neighbors"]}
    selection, found = kept(image, name, **options)
    assert len(found) == len(selection)
    return {
        "indices_in_order": selection.ordered,
        "indices": selection.indices,
        "tokens": found,
        "count": len(selection),
    }


def dart(vector: Vector) -> Outputs:
    """Text behind the image gives pivots too; the class has one way of sharing out, by which the published count is even."""
    given, start = vector.parameters, vector.parameters["image_token_start_index"]
    image, text = slice(start, start + given["image_token_length"]), slice(start + given["image_token_length"], None)
    keys, states = vector.inputs["keys"].transpose(0, 1).flatten(1), vector.inputs["states"]
    signals = {"keys": keys, "states": states, "places": torch.arange(len(states))}
    own = {f"llm_{name}": each[image] for name, each in signals.items()}
    behind = {f"llm_text_{name}": each[text] for name, each in signals.items()}
    batch = make_batch([ImageTokens(states[image], signals=own | behind)], None, [None], EncoderProfile())
    names = {"budget": "max_num_trunction", "image_pivots": "pivot_image_token", "text_pivots": "pivot_text_token"}
    method = Dart(layer=given["K"], **{name: given[value] for name, value in names.items()})
    assert method.first_short_layer(32) == given["K"]
    selection = method.select(batch)[0]
    leads = method.pivots(batch, method.quality(batch), len(selection))
    places = [*(leads[0] + start).tolist(), *(leads[1] + text.start).tolist()]
    order = [places[i] for i in visited(places)]
    return {
        "indices": selection.indices,
        "pivots_in_order_visited": torch.tensor(order),
        "count": len(selection),
    }


def fastv(vector: Vector) -> Outputs:
    image = ImageTokens(vector.inputs["hidden"])
    batch = make_batch([image], None, [None], EncoderProfile())
    batch = replace(batch, attention=vector.inputs["attention_last_row_heads"].mean(dim=0)[None, _image(vector)])
    layer = vector.parameters["fast_v_agg_layer"]
    method = get_method("fastv", budget=vector.parameters["fast_v_attention_rank"], layer=layer)
    assert method.first_short_layer(32) == layer
    selection = method.select(batch)[0]
    return {"indices": selection.indices, "tokens": reduced_features(image, selection), "count": len(selection)}


def _image(vector: Vector) -> slice:
    first = vector.parameters["fast_v_sys_length"]
    return slice(first, first + vector.parameters["fast_v_image_token_length"])


ADAPTERS = {
    "cdpruner": Adapter(cdpruner),
    "cls-attention": Adapter(cls_attention),
    "dart": Adapter(dart),
    "divprune": Adapter(divprune),
    "prumerge": Adapter(prumerge),
    "prumerge-plus": Adapter(prumerge_plus),
    "scope": Adapter(scope),
    "visionzip": Adapter(visionzip),
    "fastv": Adapter(fastv),
}
