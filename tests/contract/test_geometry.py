"""Where a token looks, per family: a spot in the picture must land on the tokens that see those pixels, and on no other.

The truth comes from the model: with attention and MLPs of the vision tower silenced, a token's features change exactly
where its own pixels do.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import trimkit
from tests.contract.families import FAMILIES
from tests.contract.pictures import PROCESSORS, encoder_arguments
from trimkit.core.geometry import View, box_means, even_boxes
from trimkit.models import family_of

SIZES = [(60, 60), (96, 40), (37, 90), (120, 118)]
CELLS = 3  # of a picture's side, where one place will do
EVERY = [
    6,
    pytest.param(12, marks=pytest.mark.slow),
]  # as many as the tiny towers have tokens a side; as any tiling has


def _silence(model: Any) -> Any:
    """Vision tower whose layers pass every token through unchanged."""
    outputs = ("out_proj", "o_proj", "fc2", "attn.proj", "attention.projection_layer", "down_proj", "mlp.linear_fc2")
    for name, module in model.named_modules():
        if any(part in name for part in ("language_model", "text_model", "projector", "merger", "vision_adapter")):
            continue
        if name.endswith(outputs) and isinstance(module, torch.nn.Linear):
            torch.nn.init.zeros_(module.weight)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    return model


def _picture(size: tuple[int, int], cell: tuple[int, int] | None, cells: int = CELLS) -> Image.Image:
    picture = Image.new("RGB", size, (90, 60, 120))
    if cell is not None:
        width, height = size[0] / cells, size[1] / cells
        x, y = (cell[0] + 0.5) * width, (cell[1] + 0.5) * height
        ImageDraw.Draw(picture).rectangle((x - width / 8, y - height / 8, x + width / 8, y + height / 8), fill="yellow")
    return picture


def _parts(family: Any, model: Any, arguments: dict[str, Any]) -> list[tuple[Any, tuple[View, ...]]]:
    arguments = {family.pixels(model) if name == "pixel_values" else name: value for name, value in arguments.items()}
    with torch.no_grad():
        parts = family.split(model, arguments)
        images = [family.encode(model, part)[0] for part in parts]
    return [(image, family.views(model, part, image)) for part, image in zip(parts, images, strict=True)]


def _changed(views: tuple[View, ...], others: tuple[View, ...], total: int) -> Tensor:
    seen = torch.zeros(total, dtype=torch.bool)
    for view, other in zip(views, others, strict=True):
        difference = (view.pixels - other.pixels).abs().amax(dim=0).double()
        seen[view.tokens] |= box_means(difference, view.boxes, *difference.shape) > 1e-6
    return seen


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", sorted(set(PROCESSORS) & set(FAMILIES)))
@pytest.mark.parametrize("cells", EVERY)
def test_a_spot_lands_on_the_tokens_that_see_it(name: str, size: tuple[int, int], cells: int) -> None:
    model = _silence(FAMILIES[name].build())
    family = family_of(model)
    plain = _parts(family, model, encoder_arguments(name, _picture(size, None)))
    for cell in [(x, y) for x in range(cells) for y in range(cells)]:
        spotted = _parts(family, model, encoder_arguments(name, _picture(size, cell, cells)))
        found = 0
        for (image, views), (before, views_before) in zip(spotted, plain, strict=True):
            truth = (image.features - before.features).abs().amax(dim=1) > 1e-5
            claimed = _changed(views, views_before, len(image))
            assert truth.tolist() == claimed.tolist(), f"spot in cell {cell}"
            found += int(truth.sum())
        if name not in {"llava", "vipllava", "video_llava"}:  # those crop the middle out of an oblong picture
            assert found, f"no token saw the spot in cell {cell}"


class _Bright:
    """A scorer that finds what is yellow."""

    needs_views = True
    profile = trimkit.EncoderProfile(sign=1)

    def similarity(self, images: Any, queries: Any, *, normalize: bool = False, truncate: bool = False) -> list[Tensor]:
        out = []
        for image in images:
            scores = torch.zeros(len(image))
            for view in image.views:
                yellow = view.pixels[0] - view.pixels[2]
                scores[view.tokens] = box_means(yellow, view.boxes, *yellow.shape)
            out.append(scores * 20)
        return out


def test_a_scorer_of_pixels_gets_rgb_through_the_whole_call() -> None:
    name, size, cell = "qwen2_5_vl", (96, 40), (2, 0)
    model = FAMILIES[name].build()
    arguments = encoder_arguments(name, _picture(size, cell))
    rows, columns = (int(n) // 2 for n in arguments["image_grid_thw"][0, 1:])
    ids = torch.tensor([[1, 97, *[99] * (rows * columns), 96, 7]])
    processor = PROCESSORS[name]()
    with trimkit.reduce(model, processor, scorer=_Bright(), query="where", budget=1, aggregate="none") as trim:
        model.generate(input_ids=ids, **arguments, max_new_tokens=1, do_sample=False)
        image = trim.report.images[0]
    assert image.grid == (rows, columns)
    row, column = divmod(int(image.indices[0]), columns)
    assert (int((column + 0.5) / columns * CELLS), int((row + 0.5) / rows * CELLS)) == cell


def test_without_a_processor_pixels_cannot_be_read() -> None:
    model = FAMILIES["qwen2_5_vl"].build()
    batch = FAMILIES["qwen2_5_vl"].batch("left")
    with (
        trimkit.reduce(model, scorer=_Bright(), query="where"),
        pytest.raises(trimkit.ConfigError, match="pass the model's processor"),
    ):
        model.generate(**batch, max_new_tokens=1)


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (1, 7), (4, 4)])
def test_box_means_are_exact(rows: int, columns: int) -> None:
    values = torch.rand(6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
    fine = values.repeat_interleave(60, 0).repeat_interleave(60, 1)  # one cell is 60 x 60 pixels
    height, width = fine.shape
    boxes = even_boxes(rows, columns, height, width)
    got = box_means(values, boxes, height, width)
    for box, mean in zip(boxes.round().long().tolist(), got.tolist(), strict=True):
        left, top, right, bottom = box
        expected = float(fine[top:bottom, left:right].mean())
        assert mean == pytest.approx(expected, rel=0.02)
