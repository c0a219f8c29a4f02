"""trimkit makes vision-language models faster by giving them fewer image tokens.

>>> with trimkit.reduce(model, processor, method="trim") as trim:
...     out = model.generate(**inputs, max_new_tokens=32)  # stock generate
>>> print(trim.report.tokens_before, "->", trim.report.tokens_after)
"""

from __future__ import annotations

from trimkit.attach import Attachment, attach, reduce
from trimkit.attach.export import export
from trimkit.config import load_config
from trimkit.core.budget import Budget, parse_budget
from trimkit.core.types import EncoderProfile, ImageReport, ImageTokens, Report, Selection, TokenBatch
from trimkit.errors import (
    ConfigError,
    InputError,
    MissingDependencyError,
    ModelError,
    TrimkitError,
    UnknownNameError,
    UnsupportedError,
)
from trimkit.io.settings import load_settings
from trimkit.methods import Method, get_method
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.pipeline.model_store import release
from trimkit.pipeline.prepare import choose, prepare
from trimkit.pipeline.reduced_inputs import ImageEmbeddings, ReducedImage, ReducedInputs
from trimkit.pipeline.selecting import reduced_features
from trimkit.pipeline.vision_encoder import VisionEncoder
from trimkit.scorers import ClipNativeScorer, ExternalScorer, Scorer
from trimkit.version import __version__ as __version__

__all__ = [
    "Attachment",
    "Budget",
    "ClipNativeScorer",
    "ConfigError",
    "EncoderProfile",
    "ExternalScorer",
    "FeatureCache",
    "ImageEmbeddings",
    "ImageReport",
    "ImageTokens",
    "InputError",
    "Method",
    "MissingDependencyError",
    "ModelError",
    "ReducedImage",
    "ReducedInputs",
    "Report",
    "Scorer",
    "Selection",
    "TokenBatch",
    "TrimkitError",
    "UnknownNameError",
    "UnsupportedError",
    "VisionEncoder",
    "attach",
    "choose",
    "export",
    "get_method",
    "load_config",
    "load_settings",
    "parse_budget",
    "prepare",
    "reduce",
    "reduced_features",
    "release",
]
