"""Where relevance comes from. A scorer gives raw text similarity per image token and says how to read it."""

from __future__ import annotations

from trimkit.scorers.base import Scorer
from trimkit.scorers.clip_native import ClipNativeScorer
from trimkit.scorers.external import ExternalScorer

__all__ = ["ClipNativeScorer", "ExternalScorer", "Scorer"]
