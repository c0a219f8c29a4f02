"""Keys for tensors by what is in them: hashes of their bytes on the host, and sums that a GPU takes of its own."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimkit.core.transfer import one_by_one, upload

__all__ = ["content_key", "digested", "public_key"]

_AT_ONCE = 1 << 22  # words of pixels whose products with all weights are taken at once: 96 MiB of them
_FEW = 4096  # elements, which are copied to the host as they are
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}  # at most half as wide as the weights
_SECRETS = (secrets.randbits(62), secrets.randbits(62))
_PUBLIC = 20240916
_MARK = "~"


def digested(pixels: Tensor) -> Tensor | None:
    """Numbers ``[..., 3]`` int64 by which pixels on a GPU are told apart, there; None where the host may read the pixels.

    Copying a picture to the host and hashing it there takes longer than choosing its tokens. Of ``[..., C, H, W]`` they are
    ``[..., 1, 1, 3]``, of ``[..., P, D]`` ``[..., P, 3]``: the axes in front stay, so that pictures can be cut apart.

    Each number is a sum of all elements' bits times 64-bit weights (multilinear hashing). Weights of the first are known, so
    that it is the same in every process; those of the others are drawn by each process, so that nobody can make two pictures
    with equal digests: unequal pictures have equal ones with a chance of at most 2 ** -66.
    """
    if one_by_one(pixels.device) or pixels.numel() <= _FEW or pixels.ndim < 2 or pixels.itemsize not in _WORDS:
        return None
    axes = 3 if pixels.ndim > 3 else 1
    front, behind = pixels.shape[: pixels.ndim - axes], pixels.shape[pixels.ndim - axes :]
    words = pixels.detach().reshape(*front, -1).contiguous().view(_WORDS[pixels.itemsize]).long()
    what = hashlib.blake2b(f"{pixels.dtype}{tuple(behind)}".encode(), digest_size=7).digest()
    weights = _weights(words.shape[-1], words.device)
    if words.numel() <= _AT_ONCE:
        sums = (words.unsqueeze(-2) * weights).sum(dim=-1)
    else:  # three products at a time would be the largest thing of the call
        sums = torch.stack([(words * each).sum(dim=-1) for each in weights], dim=-1)
    numbers = sums + int.from_bytes(what, "big")
    return numbers.view(*front, *(1,) * (axes - 1), 3)


@lru_cache(maxsize=16)
def _weights(length: int, device: torch.device) -> Tensor:
    """Weights of a digest's three numbers, ``[3, length]`` int64."""
    drawn = []
    for seed in (_PUBLIC, *_SECRETS):
        generator = torch.Generator().manual_seed(seed)
        numbers = torch.randint(-(2**63), 2**63 - 1, (length,), generator=generator, dtype=torch.int64)
        drawn.append(numbers.numpy())
    return upload(np.stack(drawn), device)


def content_key(arguments: Mapping[str, Any], digests: Collection[str] = ()) -> str:
    """Hash of named values, such as one image's encoder arguments: bytes, shapes and dtypes of tensors, and plain values.

    Where some of them, by name, are what ``digested`` made of pixels, there are two: one that is the same in every process,
    and behind a mark one that tells pictures apart for sure.
    """
    if not digests:
        return _hash(arguments)
    public = {name: value[..., :1] if name in digests else value for name, value in arguments.items()}
    return f"{_hash(public)}{_MARK}{_hash(arguments)}"


def public_key(key: str) -> str:
    """``key`` without what differs from process to process: for numbers that are drawn by it."""
    return re.sub(f"{_MARK}[0-9a-f]{{32}}", "", key)


def _hash(arguments: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arguments):
        value = arguments[name]
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            plain = value if value.dtype != torch.bfloat16 else value.contiguous().view(torch.int16)  # numpy has none
            digest.update(np.ascontiguousarray(plain.numpy(force=True)).reshape(-1).view(np.uint8).data)
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()
