"""The optional packages behind an engine: imported when they are needed, with one line where one is missing."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.version import Version

from trimkit.errors import MissingDependencyError

__all__ = ["need", "refuse_old_torch", "version_of"]

_EXTRAS = {"onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx", "openvino": "openvino"}
_OLDEST_TORCH = "2.13"  # what the export of loops was tested on


def need(package: str) -> Any:
    """The package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        extra = _EXTRAS[package]
        raise MissingDependencyError(f"{package} is not installed: pip install 'trimkit[{extra}]'") from None


def refuse_old_torch() -> None:
    """Refuse a torch whose exporter was not tried.

    Raises:
        MissingDependencyError: it is too old.
    """
    import torch

    if Version(torch.__version__).release < Version(_OLDEST_TORCH).release:
        raise MissingDependencyError(
            f"export to ONNX needs torch {_OLDEST_TORCH} or newer, and this is {torch.__version__}: update torch"
        )


def version_of(package: str) -> str | None:
    """The installed version, None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
