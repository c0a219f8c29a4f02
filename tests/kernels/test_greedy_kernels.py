"""The Triton kernels choose as plain torch does, in Triton's interpreter on the CPU: run by `make test-kernels`.

The interpreter runs one program after the other, so programs that wait for each other are left to tests/contract/test_gpu.py.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from trimkit.core import _greedy_device as plain
from trimkit.methods._choosing import cosines

pytest.importorskip("triton", reason="Triton is not installed: run `make test-kernels`")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton's interpreter is not on: run `make test-kernels`", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # the interpreter's
WIDE = torch.float64
KINDS = ["random", "tied", "padded", "not-finite"]


@pytest.fixture(autouse=True)
def _one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    from trimkit.core import _greedy_pairs_triton

    monkeypatch.setattr(_greedy_pairs_triton, "processors", lambda device: 1)


def _given(kind: str, tokens: int, images: int, seed: int) -> dict[str, Any]:
    """Features ``[B, N, D]``, worth ``[B, N]``, which are real and which broken, and a count that no image falls short of."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, tokens, tokens // 2 + 1, generator=generator)
    worth = torch.rand(images, tokens, generator=generator) + 1e-3
    real, count = torch.ones(images, tokens, dtype=torch.bool), tokens // 2
    if kind == "tied":  # every token four times, worth of four values, and some tokens worth nothing
        features = features[:, torch.arange(tokens) // 4]
        worth = (worth[:, torch.arange(tokens) // 4] * 4).floor() / 4
        count = tokens
    elif kind == "padded":
        real[0, -(tokens // 3) :] = False
        features[~real], count = 0.0, tokens - tokens // 3
    elif kind == "not-finite":
        features[0, 0], features[-1, tokens // 2], features[:, -1] = torch.nan, torch.inf, 0.0
        count = tokens
    return {"features": features, "worth": worth.masked_fill(~real, -1.0), "real": real, "count": count}


def _same(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)


cases = pytest.mark.parametrize(
    ("kind", "tokens", "images", "seed"),
    [(kind, *size) for kind in KINDS for size in ((5, 1, 1), (18, 2, 2))],
)


@cases
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_relevant_and_new(kind: str, tokens: int, images: int, seed: int, share: float) -> None:
    from trimkit.core import _greedy_triton as kernel

    given = _given(kind, tokens, images, seed)
    worth, features, count = given["worth"], given["features"], given["count"]
    relevant = torch.full((images,), int(count * share))
    expected = plain.relevant_and_new(worth, features, count, relevant, 1.0, WIDE) if count else None
    if expected is not None:
        _same(kernel.relevant_and_new(worth, features, count, relevant, 1.0, WIDE), expected)


@cases
def test_largest_volume(kind: str, tokens: int, images: int, seed: int) -> None:
    from trimkit.core import _greedy_triton as kernel

    given = _given(kind, tokens, images, seed)
    quality = given["worth"].masked_fill(given["worth"] == 0.0, 0.1)
    if given["count"]:
        expected = plain.largest_volume(quality, given["features"], given["count"], WIDE)
        _same(kernel.largest_volume(quality, given["features"], given["count"], WIDE), expected)


@cases
@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
def test_most_different(kind: str, tokens: int, images: int, seed: int, again: bool) -> None:
    from trimkit.core import _greedy_pairs_triton as kernel

    given = _given(kind, tokens, images, seed)
    features, count = given["features"], given["count"]
    broken = ~features.isfinite().all(dim=2)
    distances = (1.0 - cosines(features)).masked_fill(broken.unsqueeze(1), -1.0)
    if not again:
        distances.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    real = given["real"] if kind == "padded" else None
    if count:
        expected = plain.most_different(distances, count, broken, real)
        _same(kernel.most_different(distances, count, broken, real), expected)


@cases
def test_cover(kind: str, tokens: int, images: int, seed: int) -> None:
    from trimkit.core import _greedy_pairs_triton as kernel

    given = _given(kind, tokens, images, seed)
    if given["count"]:
        similarity = cosines(given["features"])
        expected = plain.cover(given["worth"], similarity, given["count"], WIDE)
        _same(kernel.cover(given["worth"], similarity, given["count"], WIDE), expected)


def test_cover_reads_the_matrix_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from trimkit.core import _greedy_pairs_triton as kernel

    given = _given("random", 40, 1, 4)
    similarity = cosines(given["features"])
    monkeypatch.setattr(kernel, "_TILE", 512)  # eight rows of 64
    expected = plain.cover(given["worth"], similarity, given["count"], WIDE)
    _same(kernel.cover(given["worth"], similarity, given["count"], WIDE), expected)


@cases
@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_marginal_relevance(kind: str, tokens: int, images: int, seed: int, balance: float) -> None:
    from trimkit.core import _greedy_pairs_triton as kernel

    given = _given("random" if kind == "padded" else kind, tokens, images, seed)
    importance, similarity = given["worth"].to(WIDE), cosines(given["features"]).to(WIDE)
    if given["count"]:
        expected = plain.marginal_relevance(importance, similarity, given["count"], balance)
        _same(kernel.marginal_relevance(importance, similarity, given["count"], balance), expected)
