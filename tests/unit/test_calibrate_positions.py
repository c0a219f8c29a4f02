"""Calibration chooses how the tokens that are left are numbered, for models trained either way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trimkit.calibration import _calibrate, _positions
from trimkit.calibration._calibrate import _config
from trimkit.calibration._choose import MINIMUM_PICTURES
from trimkit.calibration._measure import Arm
from trimkit.calibration._report import notes_on
from trimkit.methods import get_method


def arm(divergence: float, method: str = "trim") -> Arm:
    pictures = MINIMUM_PICTURES + 4
    values = divergence + np.linspace(-0.01, 0.01, pictures)
    rest = np.ones(pictures)
    return Arm(get_method(method, budget=0.25), values, values, rest, rest, rest, rest)


class Numbered:
    """A probe of a model whose divergence depends on positions alone."""

    def __init__(self, original: float, can: bool = True) -> None:
        self.positions = "auto"
        self._original, self._can = original, can
        self.asked: list[str] = []

    def can_number(self, method: Any) -> bool:
        return self._can

    def measure(self, method: Any) -> Arm:
        self.asked.append(self.positions)
        return arm(self._original if self.positions == "original" else 0.2)


@pytest.mark.parametrize(("original", "kept"), [(0.05, "original"), (0.4, "auto"), (0.2, "auto")])
def test_the_numbering_nearer_to_the_full_model_is_kept(original: float, kept: str) -> None:
    """A model trained with all tokens, one trained on shortened prompts, and one that does not care."""
    probe: Any = Numbered(original)
    best, found = _positions.choose_positions(probe, arm(0.2), seed=0)
    assert probe.asked == ["original"]
    assert probe.positions == kept
    assert found is not None
    assert found.decided == (original != 0.2)
    assert float(best.divergence.mean()) == pytest.approx(min(original, 0.2))
    config = _config(best, probe.positions, (), {"seed": 0}, None)
    assert config.reduce is not None
    assert config.reduce.positions == (None if kept == "auto" else kept)
    settings = {"questions": "given", "pictures": 12}
    (note,) = notes_on({"positions": found}, None, None, None, True, settings)
    assert ("original" in note) == (kept == "original")
    assert ("do not decide" in note) == (original == 0.2)


def test_without_a_choice_nothing_is_measured() -> None:
    probe: Any = Numbered(0.05, can=False)
    same, found = _positions.choose_positions(probe, arm(0.2), seed=0)
    assert (probe.asked, probe.positions, found) == ([], "auto", None)
    assert float(same.divergence.mean()) == pytest.approx(0.2)


def test_the_pass_is_counted() -> None:
    assert _calibrate.count_passes(get_method("random")) == 2 + len(_calibrate._SHARES)
