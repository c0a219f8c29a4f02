"""trimkit makes vision-language models faster by giving them fewer image tokens.

>>> with trimkit.reduce(model, processor, method="trim") as trim:
...     out = model.generate(**inputs, max_new_tokens=32)  # stock generate
>>> print(trim.report.tokens_before, "->", trim.report.tokens_after)
"""

from __future__ import annotations

from trimkit.budget import Budget, parse_budget
from trimkit.config import load_config
from trimkit.errors import (
    ConfigError,
    InputError,
    MissingDependencyError,
    ModelError,
    TrimkitError,
    UnknownNameError,
    UnsupportedError,
)
from trimkit.integrations.checkpoint import export
from trimkit.integrations.transformers import Attachment, attach, reduce
from trimkit.methods import Method, get_method
from trimkit.scorers import ClipNativeScorer, ExternalScorer, Scorer
from trimkit.types import EncoderProfile, ImageReport, ImageTokens, Report, Selection, TokenBatch

__version__ = "0.1.0"

__all__ = [
    "Attachment",
    "Budget",
    "ClipNativeScorer",
    "ConfigError",
    "EncoderProfile",
    "ExternalScorer",
    "ImageReport",
    "ImageTokens",
    "InputError",
    "Method",
    "MissingDependencyError",
    "ModelError",
    "Report",
    "Scorer",
    "Selection",
    "TokenBatch",
    "TrimkitError",
    "UnknownNameError",
    "UnsupportedError",
    "attach",
    "export",
    "get_method",
    "load_config",
    "parse_budget",
    "reduce",
]
