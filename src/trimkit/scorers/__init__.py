"""Where relevance comes from. A scorer gives raw text similarity per image token and says how to read it.

One short file a scorer: ``load_scorer`` finds it by the kind of encoder that a checkpoint holds, or by its name.
"""

from __future__ import annotations

from trimkit.scorers._shelf import scorer_classes
from trimkit.scorers._text import TextEncoder
from trimkit.scorers.base import EncoderScorer, Scorer
from trimkit.scorers.checkpoint import EncoderCheckpoint
from trimkit.scorers.clip_native import ClipNativeScorer
from trimkit.scorers.external import ExternalScorer, Published
from trimkit.scorers.fitted import FITTED_FILE, FittedScorer, write_fitted
from trimkit.scorers.fitted_network import NetworkShape, ScoringNetwork, width_for
from trimkit.scorers.model_fingerprint import fingerprint_of, is_same_model
from trimkit.scorers.resolve import load_scorer

__all__ = [
    "FITTED_FILE",
    "ClipNativeScorer",
    "EncoderCheckpoint",
    "EncoderScorer",
    "ExternalScorer",
    "FittedScorer",
    "NetworkShape",
    "Published",
    "Scorer",
    "ScoringNetwork",
    "TextEncoder",
    "fingerprint_of",
    "is_same_model",
    "load_scorer",
    "scorer_classes",
    "width_for",
    "write_fitted",
]
