"""A key for tensors by what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["content_key"]


def content_key(arguments: Mapping[str, Any]) -> str:
    """Hash of named values, such as one image's encoder arguments: bytes, shapes and dtypes of tensors, and plain values."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arguments):
        value = arguments[name]
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()
