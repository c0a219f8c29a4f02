"""trimkit makes vision-language models faster by giving them fewer image tokens.

>>> with trimkit.reduce(model, processor, method="trim") as trim:
...     out = model.generate(**inputs, max_new_tokens=32)  # stock generate
>>> print(trim.report.tokens_before, "->", trim.report.tokens_after)

The names below are imported on first use, so that ``import trimkit`` alone (and ``trimkit --help``) loads no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trimkit.version import __version__ as __version__

if TYPE_CHECKING:
    from trimkit.attach import Attachment, attach, reduce
    from trimkit.attach.export import export
    from trimkit.config import load_config
    from trimkit.core.budget import Budget, parse_budget
    from trimkit.core.confidence import Fallback
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
    from trimkit.pipeline.query_reader import QueryReader
    from trimkit.pipeline.reduced_inputs import ImageEmbeddings, ReducedImage, ReducedInputs
    from trimkit.pipeline.selecting import reduced_features
    from trimkit.pipeline.vision_encoder import VisionEncoder
    from trimkit.scorers import ClipNativeScorer, ExternalScorer, Scorer

__all__ = [
    "Attachment",
    "Budget",
    "ClipNativeScorer",
    "ConfigError",
    "EncoderProfile",
    "ExternalScorer",
    "Fallback",
    "FeatureCache",
    "ImageEmbeddings",
    "ImageReport",
    "ImageTokens",
    "InputError",
    "Method",
    "MissingDependencyError",
    "ModelError",
    "QueryReader",
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

_HOMES = {
    "trimkit.attach": ("Attachment", "attach", "reduce"),
    "trimkit.attach.export": ("export",),
    "trimkit.config": ("load_config",),
    "trimkit.core.budget": ("Budget", "parse_budget"),
    "trimkit.core.confidence": ("Fallback",),
    "trimkit.core.types": ("EncoderProfile", "ImageReport", "ImageTokens", "Report", "Selection", "TokenBatch"),
    "trimkit.errors": (
        "ConfigError",
        "InputError",
        "MissingDependencyError",
        "ModelError",
        "TrimkitError",
        "UnknownNameError",
        "UnsupportedError",
    ),
    "trimkit.io.settings": ("load_settings",),
    "trimkit.methods": ("Method", "get_method"),
    "trimkit.pipeline.feature_cache": ("FeatureCache",),
    "trimkit.pipeline.model_store": ("release",),
    "trimkit.pipeline.prepare": ("choose", "prepare"),
    "trimkit.pipeline.query_reader": ("QueryReader",),
    "trimkit.pipeline.reduced_inputs": ("ImageEmbeddings", "ReducedImage", "ReducedInputs"),
    "trimkit.pipeline.selecting": ("reduced_features",),
    "trimkit.pipeline.vision_encoder": ("VisionEncoder",),
    "trimkit.scorers": ("ClipNativeScorer", "ExternalScorer", "Scorer"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, imported on first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """``trimkit.attach`` is the function. The import of the package of the same name would put itself in its place."""

    @property
    def attach(self) -> Any:
        return importlib.import_module("trimkit.attach").attach

    @attach.setter
    def attach(self, value: Any) -> None:
        """What an import sets is left aside."""


sys.modules[__name__].__class__ = _Package
