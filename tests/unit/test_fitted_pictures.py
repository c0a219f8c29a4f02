"""What a scorer was fitted on is known again, whatever its size or file name, and proves nothing about other pictures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.calibration import QUESTIONS, Salience, spots, write_checkpoint
from trimkit import InputError, ModelError
from trimkit.calibration import RiskCalibration, calibrate, calibrate_risk
from trimkit.calibration._sources import make_pairs
from trimkit.calibration._unseen import UNKNOWN, unseen
from trimkit.fitting import FitSettings, fit
from trimkit.loading import load_model
from trimkit.scorers import FittedScorer, load_scorer
from trimkit.scorers.fitted_pictures import LONGEST_SIDE, PICTURES_FILE, picture_mark

FITTED = 40


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return load_model(str(write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "random")))


@pytest.fixture(scope="module")
def folder(loaded: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fit")
    settings = FitSettings(per_picture=1, max_new_tokens=2, steps=4, every=2, batch=4, width=8)
    how: dict[str, Any] = {"work": place / "work", "settings": settings, "force": True}
    return fit(*loaded, spots(FITTED), QUESTIONS, place / "out", **how).written or Path()


def others(count: int) -> dict[str, Any]:
    """Pictures that were not fitted on."""
    return dict(list(spots(FITTED + count).items())[FITTED:])


def promised(loaded: tuple[Any, Any], pictures: dict[str, Any], scorer: Any) -> RiskCalibration:
    return calibrate_risk(*loaded, pictures, QUESTIONS, risk=0.5, confidence=0.8, max_new_tokens=1, scorer=scorer)


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_picture_is_known_again_once_it_is_shrunk() -> None:
    whole = noise(2 * LONGEST_SIDE, LONGEST_SIDE)
    small = whole.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    assert picture_mark(whole) == picture_mark(small)
    assert whole.size == (2 * LONGEST_SIDE, LONGEST_SIDE), "the picture itself was shrunk"
    assert picture_mark(whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) != picture_mark(whole)


def test_what_a_picture_is_held_in_does_not_matter() -> None:
    grey = noise(30, 20).convert("L")
    assert picture_mark(grey) == picture_mark(grey.convert("RGB"))


def test_the_folder_tells_what_was_fitted_on(folder: Path) -> None:
    scorer = load_scorer(folder)
    assert isinstance(scorer, FittedScorer)
    assert scorer.fitted_on == {picture_mark(image) for image in spots(FITTED).values()}


def test_a_promise_leaves_out_what_was_fitted_on_and_names_it(loaded: tuple[Any, Any], folder: Path) -> None:
    found = promised(loaded, spots(FITTED + 24), folder)
    assert found.promise.tuned + found.promise.proving == 24
    assert found.skipped == tuple((name, "the scorer was fitted on it") for name in spots(FITTED))


def test_a_calibration_leaves_it_out_too(loaded: tuple[Any, Any], folder: Path) -> None:
    found = calibrate(*loaded, spots(FITTED + 8), QUESTIONS, per_picture=1, max_new_tokens=1, scorer=folder)
    assert found.settings["pictures"] == 8
    assert len(found.skipped) == FITTED


@pytest.mark.parametrize("how", [calibrate, calibrate_risk])
def test_nothing_but_what_was_fitted_on_is_refused(loaded: tuple[Any, Any], folder: Path, how: Any) -> None:
    with pytest.raises(InputError, match="fitted on all of these 40 pictures") as raised:
        how(*loaded, spots(FITTED), QUESTIONS, scorer=folder)
    assert "\n" not in str(raised.value)


def test_other_pictures_and_other_scorers_are_left_alone(folder: Path) -> None:
    pairs = make_pairs(others(3), QUESTIONS, 1)
    assert unseen(pairs, load_scorer(folder)) == (pairs, [], ())
    assert unseen(pairs, Salience()) == unseen(pairs, None) == (pairs, [], ())


def test_a_scorer_that_does_not_say_is_said_not_to(loaded: tuple[Any, Any], folder: Path, tmp_path: Path) -> None:
    older = shutil.copytree(folder, tmp_path / "older")
    (older / PICTURES_FILE).unlink()
    assert UNKNOWN in promised(loaded, others(24), older).notes
    found = calibrate(*loaded, others(8), QUESTIONS, per_picture=1, max_new_tokens=1, scorer=older)
    assert UNKNOWN in found.notes


@pytest.mark.parametrize("text", ["", "[]", '{"marks": 3}', '{"marks": ["x"]}', '{"marks": [null]}'])
def test_damaged_marks_are_refused_in_one_line(folder: Path, tmp_path: Path, text: str) -> None:
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / PICTURES_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="fit it again") as raised:
        load_scorer(damaged)
    assert "\n" not in str(raised.value)
