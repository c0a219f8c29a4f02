"""Fit a text-aware scorer to the model that it is to serve, without labels. ``fit`` is the entry."""

from __future__ import annotations

from trimkit.fitting._fit import Fitting, fit
from trimkit.fitting._forecast import Forecast
from trimkit.fitting._guard import Verdict
from trimkit.fitting._settings import MINIMUM_PICTURES, TARGETS, FitSettings

__all__ = ["MINIMUM_PICTURES", "TARGETS", "FitSettings", "Fitting", "Forecast", "Verdict", "fit"]
