"""What is wrong with a model is said in one line when it is attached, not by a traceback in its first call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf

import trimkit
from tests import tiny
from tests.contract import tiny_families as more
from trimkit.models import family_of
from trimkit.models._checks import check_features
from trimkit.models._forward_reads import fields_read


@pytest.mark.parametrize("layer", [99, 4, -5, [-2, 99], [-9]])
@pytest.mark.parametrize("build", [tiny.llava, tiny.llava_next, more.aya_vision, more.mistral3, more.vipllava])
@pytest.mark.parametrize("method", ["none", "random"])
def test_a_layer_that_the_tower_does_not_have_is_refused_at_attach(build: Any, layer: Any, method: str) -> None:
    model = build()
    name = "vision_feature_layers" if hasattr(model.config, "vision_feature_layers") else "vision_feature_layer"
    setattr(model.config, name, layer)
    with pytest.raises(
        trimkit.UnsupportedError, match=r"config reads vision_feature_layer.* of a vision tower"
    ) as error:
        trimkit.reduce(model, method=method)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layer", [0, 3, -1, -4, [-2, -1]])
def test_every_layer_that_there_is_is_taken(layer: Any) -> None:
    model = tiny.llava()
    model.config.vision_feature_layer = layer
    family_of(model)


def _plain(mm_encoder_outputs: Any) -> Any:
    if mm_encoder_outputs.get("image") is not None:
        return mm_encoder_outputs["image"].pooler_output
    return mm_encoder_outputs["video"].hidden_states


def _named(mm_encoder_outputs: Any) -> Any:
    output = mm_encoder_outputs.get("image")
    if output is None:
        return None
    return output.pooler_output, output.extra


def _handed_on(mm_encoder_outputs: Any) -> Any:
    return print(mm_encoder_outputs["image"])


def _returned(mm_encoder_outputs: Any) -> Any:
    loss = mm_encoder_outputs["image"].pooler_output
    return SomeOutput(loss=loss, image_outputs=mm_encoder_outputs.get("image"))  # noqa: F821


def _written(mm_encoder_outputs: Any, encode: Any) -> Any:
    mm_encoder_outputs["image"] = encode()


@pytest.mark.parametrize(
    ("forward", "fields"),
    [
        (_plain, {"pooler_output"}),
        (_named, {"pooler_output", "extra"}),
        (_handed_on, {"*"}),
        (_returned, {"pooler_output"}),
        (_written, set()),
    ],
)
def test_what_a_forward_reads_of_an_encoded_image(forward: Any, fields: set[str]) -> None:
    assert fields_read(forward, "image") == fields


def test_without_source_nothing_is_known() -> None:
    assert fields_read(len, "image") is None


class _ReadsMoreModel(tf.LlavaModel):
    def forward(self, input_ids: Any = None, mm_encoder_outputs: Any = None, **kwargs: Any) -> Any:
        return mm_encoder_outputs["image"].pooler_output + mm_encoder_outputs["image"].extra


class _ReadsElsewhereModel(tf.LlavaModel):
    def forward(self, input_ids: Any = None, mm_encoder_outputs: Any = None, **kwargs: Any) -> Any:
        return mm_encoder_outputs["image"].last_hidden_state


@pytest.mark.parametrize(("base", "read"), [(_ReadsMoreModel, "extra"), (_ReadsElsewhereModel, "last_hidden_state")])
@pytest.mark.parametrize("method", ["none", "random"])
def test_a_forward_that_reads_another_field_is_refused_at_attach(base: type, read: str, method: str) -> None:
    model = tiny.llava()
    model.model.__class__ = base
    with pytest.raises(trimkit.UnsupportedError, match=f"reads {read} of its encoded images"):
        trimkit.reduce(model, method=method)


class _HandsOnModel(tf.LlavaModel):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


def test_a_forward_that_hands_on_to_its_parents_is_read_there() -> None:
    model = tiny.llava()
    model.model.__class__ = _HandsOnModel
    assert type(family_of(model)).__name__ == "Llava"
    model.config.model_type = "of_nobody"
    assert type(family_of(model)).__name__ == "Generic"


class _SaysNothingModel(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model

    def get_image_features(self, pixel_values: Any, **kwargs: Any) -> Any:
        return self.inner.get_image_features(pixel_values, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def test_a_wrapper_is_taken_for_a_tested_family_alone() -> None:
    model = tiny.llava()
    model.model = _SaysNothingModel(model.model)
    family_of(model)
    model.config.model_type = "of_nobody"
    with pytest.raises(trimkit.UnsupportedError, match="does not say what its forward reads"):
        family_of(model)


@pytest.mark.parametrize(
    ("features", "layers", "message"),
    [
        (None, (), "gives no features per image"),
        (torch.zeros(2, 3, 4, 5), (), r"gives \[3, 4, 5\] an image"),
        ([torch.zeros(3)], (), r"gives \[3\] an image"),
        ([None], (), "gives None an image"),
        (torch.zeros(2, 3, 4), ([torch.zeros(3, 4), torch.zeros(2, 4)],), "deep-stack features are not one a token"),
    ],
)
def test_features_that_are_not_one_row_a_token_are_refused(features: Any, layers: Any, message: str) -> None:
    with pytest.raises(trimkit.UnsupportedError, match=message):
        check_features(tiny.llava(), features, layers)
