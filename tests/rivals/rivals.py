"""Adapters of the nine methods of ``tests/golden/rivals``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.rivals.vectors import Adapter, Vector
from trimkit import EncoderProfile, ImageTokens, get_method
from trimkit.core.types import Selection
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


def fastv(vector: Vector) -> Outputs:
    image = ImageTokens(vector.inputs["hidden"])
    batch = make_batch([image], None, [None], EncoderProfile())
    batch = replace(batch, attention=vector.inputs["attention_last_row_heads"].mean(dim=0)[None, _image(vector)])
    method = get_method("fastv", budget=vector.parameters["fast_v_attention_rank"])
    assert method.first_short_layer(32) == vector.parameters["fast_v_agg_layer"]
    selection = method.select(batch)[0]
    return {"indices": selection.indices, "tokens": reduced_features(image, selection), "count": len(selection)}


def _image(vector: Vector) -> slice:
    first = vector.parameters["fast_v_sys_length"]
    return slice(first, first + vector.parameters["fast_v_image_token_length"])


ADAPTERS = {
    "cls-attention": Adapter(cls_attention),
    "fastv": Adapter(fastv),
}
