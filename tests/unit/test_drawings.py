"""Reports that draw themselves: every family's pictures, tiles, merged tokens, what was cropped away, and their short forms."""

from __future__ import annotations

import gc
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import trimkit
from tests import tiny
from tests.contract.families import FAMILIES
from tests.tiny import GREEDY
from trimkit import viz
from trimkit.core.types import ImageReport, Report
from trimkit.demo import load_demo, sample_images
from trimkit.images import load_image
from trimkit.viz import scenes, sheet

MARGIN, HEADER = 20, 36


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    return load_demo()


def _asked(demo: tuple[Any, Any], question: str = "Is there a dog?", **options: Any) -> Report:
    from trimkit.ask import ask

    sample = next(iter(sample_images().values()))
    report = ask(*demo, load_image(sample.path), question, max_new_tokens=1, **options).report
    assert report is not None
    return report


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_drawn(name: str) -> None:
    """Each token that looks somewhere is in the box that its family says, of the very pixels that were given."""
    case = FAMILIES[name]
    model, batch = case.build(), case.batch("left")
    with trimkit.reduce(model, method="uniform", budget=0.5) as trim:
        model.generate(**batch, **GREEDY)
    report = trim.report
    views = report.renderer.views()  # type: ignore[union-attr]
    assert len(views) == len(report.images)
    for image, each in zip(report.images, views, strict=True):
        tokens = torch.cat([view.tokens for view in each])
        assert len(tokens.unique()) == len(tokens) <= image.tokens_before
        assert all(0.0 <= float(view.pixels.min()) <= float(view.pixels.max()) <= 1.0 for view in each)
    drawn = report.draw()
    assert drawn.height > len(report.images) * 100


def test_tiles_are_drawn_each(monkeypatch: pytest.MonkeyPatch) -> None:
    case = FAMILIES["llava_next"]
    model, batch = case.build(), case.batch("left")
    with trimkit.reduce(model, method="uniform", budget=0.5) as trim:
        model.generate(**batch, **GREEDY)
    titles: list[str] = []
    really = sheet.panels_of
    monkeypatch.setattr(sheet, "panels_of", lambda *a: (titles.append(a[3]), really(*a))[1])
    trim.report.draw()
    assert titles == [f"image {number}" for number in (1, 1, 2, 2, 3, 3, 4, 4)], "the overview and the tiles of each"


def test_the_pixels_are_the_picture(demo: tuple[Any, Any]) -> None:
    report = _asked(demo, method="random", budget=50)
    (views,) = report.renderer.views()  # type: ignore[union-attr]
    sample = np.asarray(load_image(next(iter(sample_images().values())).path), dtype=float) / 255
    assert np.abs(views[0].pixels.permute(1, 2, 0).numpy() - sample).max() < 0.01


@pytest.mark.parametrize("method", ["visionzip", "prumerge", "avg-pool"])
def test_merged_tokens_are_groups(method: str, demo: tuple[Any, Any]) -> None:
    report = _asked(demo, method=method, budget=36).images[0]
    assert report.groups is not None
    assert report.groups.shape == (576,)
    kept = len(report.indices)
    assert kept == 36 - report.aggregated - report.class_token
    assert int(report.groups.max()) == kept - 1
    assert torch.equal(report.groups[report.indices], torch.arange(kept)), "a kept patch is its own token's"
    if method == "avg-pool":  # 6 x 6 cells of 4 x 4 patches
        assert torch.equal(report.groups.view(24, 24)[:4, :4], torch.zeros(4, 4, dtype=torch.int64))
        assert (report.groups.bincount() == 16).all()


def test_picking_has_no_groups_and_is_titled_so(demo: tuple[Any, Any]) -> None:
    report = _asked(demo, method="trim", budget=36).images[0]
    assert report.groups is None
    scene = scenes.scenes_of(_asked(demo, budget=36).renderer.views()[0])[0]  # type: ignore[union-attr]
    assert sheet.panels_of(report, scene, 300).left_title.startswith("kept patches; the others as one token")
    both = _asked(demo, method="visionzip", budget=36).images[0]
    assert sheet.panels_of(both, scene, 300).left_title.startswith("35 tokens, each merged")
    assert sheet.panels_of(both, scene, 300).left_title.endswith("; the class token besides")
    merged = _asked(demo, method="avg-pool", budget=36).images[0]
    assert "each merged of the patches of one tint" in sheet.panels_of(merged, scene, 300).left_title


def test_a_group_has_one_tint_and_others_have_others() -> None:
    groups = torch.arange(4).repeat_interleave(4).view(4, 4).T.flatten()  # columns
    report = replace(_report(4, 16), groups=groups, indices=torch.tensor([0, 1, 2, 3]), grid=(4, 4))
    picture = Image.new("RGB", (160, 160), (128, 128, 128))
    painted = np.asarray(scenes.paint_kept(_scene(picture, 4), report))
    colors = [tuple(painted[150, 40 * column + 20]) for column in range(4)]
    assert len(set(colors)) == 4
    assert all(tuple(painted[row, 40 * column + 20]) == colors[column] for column in range(4) for row in (60, 110))
    assert tuple(painted[20, 20]) == (255, 255, 255), "a dot where the token stands"


def test_a_map_has_a_bar_with_its_numbers(demo: tuple[Any, Any]) -> None:
    report = _asked(demo, budget=50).images[0]
    assert report.relevance is not None
    scene = _scene(Image.new("RGB", (240, 240), "gray"), 24)
    panels = sheet.panels_of(report, scene, 560)
    low, high = np.percentile(report.relevance.double(), (2, 99.5))
    assert panels.span == pytest.approx((low, high), rel=1e-6)
    drawn = np.asarray(sheet.sheet_of([panels], question="", title="", lines=[]))
    bar = drawn[HEADER + 560 + 13, 600 : 600 + 560]
    assert tuple(bar[0]) == scenes.HEAT[0]
    assert tuple(bar[-1]) == scenes.HEAT[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "trim", "budget": 1.0}, "every token is kept: nothing had to be ranked"),
        ({"method": "none"}, "every token is kept: nothing had to be ranked"),
        ({"method": "trim", "budget": 50}, "relevance to the question"),
        ({"method": "avg-pool", "budget": 36}, "this method does not read the question"),
        ({"method": "l2-norm", "budget": 50}, "the method's score; it does not read the question"),
    ],
)
def test_what_stands_beside_is_true(options: dict[str, Any], words: str, demo: tuple[Any, Any]) -> None:
    _, title = sheet._ranking(_asked(demo, **options).images[0])
    assert title == words


def test_a_method_without_a_score_is_said_to_read_nothing() -> None:
    assert sheet._ranking(_report(3, 16)) == (None, "this method does not read the question")


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((3000, 100), (1450 / 3000, 0, 1550 / 3000, 1)),
        ((1280, 720), (280 / 1280, 0, 1000 / 1280, 1)),
        ((100, 3000), (0, 1450 / 3000, 1, 1550 / 3000)),
        ((336, 336), (0, 0, 1, 1)),
    ],
)
def test_the_crop_is_found(size: tuple[int, int], box: tuple[float, ...], demo: tuple[Any, Any]) -> None:
    from trimkit.ask import seen_boxes

    picture = Image.new("RGB", size)
    assert seen_boxes(*demo, [picture], _asked(demo, method="random", budget=9)) == [pytest.approx(box, abs=0.006)]


def test_the_crop_is_drawn() -> None:
    picture = Image.new("RGB", (1000, 100), "white")
    strip = np.asarray(viz.draw_given(picture, (0.4, 0.0, 0.6, 1.0), 1000))
    assert (strip[50, 420:580] == 255).all(), "what the model saw is as it was"
    assert (strip[50, 20:390] < 130).all()
    assert (strip[50, 610:980] < 130).all()
    assert tuple(strip[50, 400]) == sheet.ACCENT


def test_several_pictures_have_a_row_each(demo: tuple[Any, Any]) -> None:
    one = _asked(demo, method="random", budget=50)
    views = one.renderer.views()  # type: ignore[union-attr]
    three = Report("random", one.images * 3)
    heights = [viz.draw_report(r, v).height for r, v in ((one, views), (three, views * 3))]
    assert heights[1] > 2 * heights[0]
    many = viz.draw_report(Report("random", one.images * 40), views * 40)
    twelve = viz.draw_report(Report("random", one.images * 12), views * 12)
    assert twelve.height < many.height < twelve.height + 40, "a note says how many are left out"


def test_repr_is_short(demo: tuple[Any, Any]) -> None:
    report = _asked(demo, "What is " + "very " * 100 + "large?", budget=36)
    assert re.fullmatch(r"Report\(trim: 576 -> 36 image tokens \(94% removed\), 1 image, \d+\.\d{3} s\)", repr(report))
    assert len(repr(report.images)) < 200
    assert "576 -> 36 tokens" in repr(report.images[0])
    assert "tensor" not in repr(report.images[0])


def test_a_notebook_shows_table_and_drawing(demo: tuple[Any, Any]) -> None:
    page = _asked(demo, "Is <b>this</b> a dog?", budget=36)._repr_html_()
    assert page is not None
    assert "576 → 36" in page
    assert "&lt;b&gt;this" in page
    assert "<b>this" not in page
    assert "data:image/jpeg;base64,/9j/" in page
    assert Report("trim")._repr_html_() is None


def test_save_and_show(demo: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = _asked(demo, budget=36)
    path = report.save(tmp_path / "kept.png")
    with Image.open(path) as saved:
        assert saved.size == report.draw().size
    with pytest.raises(trimkit.InputError, match=r"\.png"):
        report.save(tmp_path / "kept.txt")
    shown: list[Any] = []
    monkeypatch.setattr(Image.Image, "show", lambda self, title=None: shown.append(self.size))
    report.show()
    assert shown == [report.draw().size]
    with pytest.raises(trimkit.ConfigError, match="no pictures to draw on"):
        Report("trim").draw()


def test_a_report_can_be_pickled_and_keeps_no_model(demo: tuple[Any, Any]) -> None:
    report = _asked(demo, budget=36)
    again = pickle.loads(pickle.dumps(report))
    assert again.renderer is None
    assert again.tokens_after == 36
    model = tiny.llava()
    with trimkit.reduce(model, method="random", budget=5) as trim:
        model.generate(**tiny.llava_batch([1]), **GREEDY)
    kept = trim.report
    del model, trim
    gc.collect()
    assert kept.renderer.views() == [()]  # type: ignore[union-attr]
    assert kept.draw().width > 300, "says that there is nothing to draw on"


def test_pictures_of_an_earlier_turn_are_said_not_to_be_there(demo: tuple[Any, Any]) -> None:
    one = _asked(demo, method="random", budget=50)
    drawn = viz.draw_report(one, [()])
    assert drawn.height < viz.draw_report(one, one.renderer.views()).height  # type: ignore[union-attr]


def _report(kept: int, total: int) -> ImageReport:
    return ImageReport(0, None, total, kept, torch.arange(kept), False, None, None, None)


def _scene(picture: Image.Image, side: int) -> scenes.Scene:
    from trimkit.core.geometry import even_boxes

    boxes = even_boxes(side, side, picture.height, picture.width).numpy().astype(float)
    return scenes.Scene(picture, np.arange(side * side), boxes)
