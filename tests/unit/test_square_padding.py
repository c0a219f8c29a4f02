"""``padding="skip"``: patches that see only a square's padding are found, and chosen by no method."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trimkit
from trimkit.ask import build_inputs
from trimkit.core.types import ImageTokens, Selection
from trimkit.demo import load_demo
from trimkit.demo.items import sample_item
from trimkit.errors import ConfigError
from trimkit.eval.shifts import apply_shift
from trimkit.methods import get_method, method_classes
from trimkit.pipeline.square_padding import _of_all, inner_box, real_tokens

INSIDE = range(4 * 24, 20 * 24)  # patches of the rows that see something of a picture 208 pixels high
METHODS = [name for name, cls in method_classes() if name not in ("none", "resize") and cls.stage == "tower"]


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    return load_demo()


@pytest.fixture(scope="module")
def asked(demo: tuple[Any, Any]) -> dict[str, Any]:
    picture, question = sample_item(3, 1)
    return dict(build_inputs(*demo, [apply_shift(picture, "wide")], [question.text], max_new_tokens=2))


def chosen(demo: tuple[Any, Any], asked: dict[str, Any], **options: Any) -> Any:
    with torch.no_grad(), trimkit.reduce(*demo, **options) as trim:
        demo[0](**asked)
    (image,) = trim.report.images
    return image


def test_bands_of_the_corners_color_are_padding() -> None:
    pixels = torch.zeros(3, 20, 30)
    assert inner_box(pixels) == (0, 0, 30, 20)  # nothing but one color: no padding
    pixels[:, 5:12, :] = torch.rand(3, 7, 30) + 0.5
    assert inner_box(pixels) == (0, 5, 30, 12)
    assert inner_box(pixels.transpose(1, 2)) == (5, 0, 12, 30)
    pixels[0, 2, 3] = 0.5  # one pixel in the band: its row shows something
    assert inner_box(pixels) == (0, 2, 30, 12)


@pytest.mark.parametrize("name", METHODS)
def test_no_method_chooses_padding(name: str, demo: tuple[Any, Any], asked: dict[str, Any]) -> None:
    options = {} if name == "prumerge" else {"budget": 64}
    image = chosen(demo, asked, method=name, padding="skip", **options)
    assert set(image.indices.tolist()) <= set(INSIDE)
    assert image.tokens_before == 576
    if name in ("prumerge", "flowcut"):  # one decides how many, one has dropped some in the tower already
        assert 0 < image.tokens_after <= 64
    else:
        assert image.tokens_after == (65 if name == "trim-released" else 64)


def test_a_method_inside_the_language_model_never_gets_it(demo: tuple[Any, Any], asked: dict[str, Any]) -> None:
    with torch.no_grad(), trimkit.reduce(*demo, method="fastv", budget=64, padding="skip") as trim:
        demo[0](**asked)
    (image,) = trim.report.images
    assert image.tokens_before == len(INSIDE)
    assert image.tokens_after == 64


def test_a_smaller_picture_loses_its_padding_too(demo: tuple[Any, Any], asked: dict[str, Any]) -> None:
    image = chosen(demo, asked, method="resize", budget=64, padding="skip")
    assert set(image.indices.tolist()) <= set(INSIDE)
    assert image.tokens_after < 64


def test_without_the_option_padding_is_chosen(demo: tuple[Any, Any], asked: dict[str, Any]) -> None:
    for options in ({}, {"padding": "keep"}):
        image = chosen(demo, asked, method="uniform", budget=64, **options)
        assert not set(image.indices.tolist()) <= set(INSIDE)


def test_a_fraction_is_one_of_all_tokens(demo: tuple[Any, Any], asked: dict[str, Any]) -> None:
    """A fixed budget keeps as many tokens as of any square, and all real patches where there are fewer."""
    assert chosen(demo, asked, method="uniform", budget=0.25, padding="skip").tokens_after == 144
    image = chosen(demo, asked, method="uniform", budget=0.9, padding="skip")
    assert image.indices.tolist() == list(INSIDE)
    assert image.tokens_after == len(INSIDE)


def test_a_picture_without_padding_is_chosen_as_ever(demo: tuple[Any, Any]) -> None:
    picture, question = sample_item(3, 1)
    asked = dict(build_inputs(*demo, [picture], [question.text], max_new_tokens=2))
    for name in ("focus", "visionzip"):
        first, second = (chosen(demo, asked, method=name, budget=64, padding=how) for how in ("keep", "skip"))
        assert first.indices.tolist() == second.indices.tolist()


def test_the_mean_of_what_is_dropped_holds_no_padding(demo: tuple[Any, Any], asked: dict[str, Any]) -> None:
    with torch.no_grad():
        kept = trimkit.prepare(*demo, asked, method="uniform", budget=64, aggregate="mean", padding="skip").kept[0]
        whole = demo[0].model.vision_tower(asked["pixel_values"], output_hidden_states=True).hidden_states[-2][0, 1:]
    image = chosen(demo, asked, method="uniform", budget=64, aggregate="mean", padding="skip")
    dropped = [i for i in INSIDE if i not in set(image.indices.tolist())]
    torch.testing.assert_close(kept.features[-1], whole[dropped].mean(dim=0), rtol=1e-4, atol=1e-4)


def test_what_is_cut_is_of_one_piece() -> None:
    alive = torch.zeros(4, 5, dtype=torch.bool)
    alive[1:3] = True
    image = ImageTokens(
        torch.arange(20.0)[:, None], (4, 5), alive=alive.flatten(), cls_attention=torch.arange(20.0),
        signals={"received": torch.arange(20.0), "cls_state": torch.ones(3)},
    )  # fmt: skip
    real, at = real_tokens(image)
    assert real.grid == (2, 5)
    assert at.tolist() == list(range(5, 15))
    assert real.features.flatten().tolist() == real.signals["received"].tolist() == list(map(float, range(5, 15)))
    assert real.signals["cls_state"].shape == (3,)
    scattered = ImageTokens(torch.rand(20, 2), (4, 5), alive=torch.rand(20) > 0.5)
    assert real_tokens(scattered)[0].grid is None


def test_a_merging_methods_rows_are_spread_over_all_tokens() -> None:
    mixing = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    whole = _of_all(Selection(torch.tensor([0, 1]), 2, mixing=mixing, weights=torch.ones(2)), torch.tensor([3, 5]), 7)
    assert (whole.indices.tolist(), whole.total) == ([3, 5], 7)
    assert whole.mixing is not None
    assert whole.mixing[0].tolist() == [0, 0, 0, 0.5, 0, 0.5, 0]
    assert whole.weights is not None
    assert whole.weights.tolist() == [0, 0, 0, 1, 0, 1, 0]


def test_what_does_not_go_together_is_refused(demo: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="both say which patches"):
        trimkit.reduce(*demo, method="trim", padding="skip", tower_keep=0.5)
    with pytest.raises(ConfigError, match="padding='drop' is not known"):
        trimkit.reduce(*demo, method="trim", padding="drop")
    assert get_method("trim", budget=1.0).keeps_all
    asked = dict(
        build_inputs(*demo, [apply_shift(sample_item(3, 1)[0], "wide")], ["Is there a dog?"], max_new_tokens=2)
    )
    assert chosen(demo, asked, method="none", padding="skip").tokens_after == 576
