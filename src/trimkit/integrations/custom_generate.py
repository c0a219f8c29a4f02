"""The old address of ``trimkit.attach.exported``, which ``custom_generate/generate.py`` of older exports names."""

from __future__ import annotations

from trimkit.attach.exported import generate

__all__ = ["generate"]
