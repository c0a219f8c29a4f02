"""Shifted pictures: size and mode stay, the seed decides, and each shift does what it is named for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from trimkit.demo.items import sample_item
from trimkit.errors import ConfigError
from trimkit.eval.shifts import SHIFTS, apply_shift


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return sample_item(3, 0)[0]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


@pytest.mark.parametrize("shift", SHIFTS)
def test_size_mode_and_source_stay(shift: str, picture: Image.Image) -> None:
    before = pixels(picture).copy()
    first, again = (apply_shift(picture, shift, seed=5) for _ in range(2))
    assert (first.size, first.mode) == (picture.size, "RGB")
    assert np.array_equal(pixels(first), pixels(again))
    assert np.array_equal(pixels(picture), before)
    assert np.array_equal(pixels(first), before) == (shift == "none")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_modes_and_odd_sizes(mode: str) -> None:
    for size in ((7, 5), (1, 1)):
        for shift in SHIFTS:
            assert apply_shift(Image.new(mode, size), shift).size == size


def test_each_does_what_it_says(picture: Image.Image) -> None:
    grey = pixels(apply_shift(picture, "greyscale"))
    assert np.array_equal(grey[..., 0], grey[..., 2])
    flat = pixels(apply_shift(picture, "low-contrast"))
    assert flat.std() < 0.3 * pixels(picture).std()
    edges = [np.abs(np.diff(pixels(image), axis=1)).mean() for image in (picture, apply_shift(picture, "blur"))]
    assert edges[1] < 0.5 * edges[0]
    noise = pixels(apply_shift(Image.new("RGB", (64, 64), (128, 128, 128)), "noise")) - 128
    assert 35 < noise.std() < 45
    hot, cold = (pixels(apply_shift(Image.new("L", (9, 9), grey), "thermal")).mean(axis=(0, 1)) for grey in (255, 0))
    assert hot.sum() > 700 > 200 > cold.sum()


def test_overhead_shows_the_scene_smaller_and_once() -> None:
    scene = Image.new("RGB", (336, 336))
    scene.paste((255, 255, 255), (126, 126, 210, 210))  # one white square, 84 pixels wide
    bright = pixels(apply_shift(scene, "overhead"))[..., 0] > 200
    rows, columns = np.nonzero(bright)
    assert 50 <= rows.max() - rows.min() + 1 <= 54
    assert abs(rows.mean() - 167.5) < 2
    assert abs(columns.mean() - 167.5) < 2
    assert bright.sum() < 54 * 54  # and nowhere else


def test_noise_is_another_one_with_another_seed(picture: Image.Image) -> None:
    assert apply_shift(picture, "noise", 1) != apply_shift(picture, "noise", 2)


def test_an_unknown_shift_is_refused(picture: Image.Image) -> None:
    with pytest.raises(ConfigError, match="choose one of none, greyscale"):
        apply_shift(picture, "sepia")
