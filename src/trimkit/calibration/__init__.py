"""Choose how to reduce a user's own model from pictures and questions, without one label. ``calibrate`` is the entry."""

from __future__ import annotations

from trimkit.calibration._calibrate import Calibration, calibrate, count_passes
from trimkit.calibration._choose import MINIMUM_PICTURES, interval
from trimkit.calibration._drift import DriftMonitor
from trimkit.calibration._measure import Pair, Values, until_end
from trimkit.calibration._outcomes import Outcomes, Way
from trimkit.calibration._promise import Promise, prove, split_pictures
from trimkit.calibration._risk import RiskCalibration, calibrate_risk, count_risk_passes
from trimkit.calibration._rules import Rule
from trimkit.calibration._sources import GENERIC_QUESTIONS, Sources, files_of, make_pairs, read_sources

__all__ = [
    "GENERIC_QUESTIONS",
    "MINIMUM_PICTURES",
    "Calibration",
    "DriftMonitor",
    "Outcomes",
    "Pair",
    "Promise",
    "RiskCalibration",
    "Rule",
    "Sources",
    "Values",
    "Way",
    "calibrate",
    "calibrate_risk",
    "count_passes",
    "count_risk_passes",
    "files_of",
    "interval",
    "make_pairs",
    "prove",
    "read_sources",
    "split_pictures",
    "until_end",
]
