"""The weighing of Focus as a kernel gives what plain torch gives, in Triton's interpreter: run by `make test-kernels`."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from trimkit.core import transfer, worth

pytest.importorskip("triton", reason="Triton is not installed: run `make test-kernels`")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton's interpreter is not on: run `make test-kernels`", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # the interpreter's


@pytest.fixture(autouse=True)
def _together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ONE_BY_ONE", frozenset())


def _given(kind: str, images: int, grid: tuple[int, int], seed: int) -> dict[str, Any]:
    """What ``worth.weigh`` takes: features of scenes repeat a few looks, those of pages none."""
    generator = torch.Generator().manual_seed(seed)
    tokens = grid[0] * grid[1]
    looks = torch.randn(images, 3, 24, generator=generator)
    features = torch.randn(images, tokens, 24, generator=generator)
    if kind != "page":
        features = 0.2 * features + looks[:, torch.arange(tokens) % 3]
    signed = torch.randn(images, tokens, generator=generator)
    if kind == "peak":
        signed[:, : max(tokens // 9, 1)] += 12.0
    elif kind == "flat":
        signed[:] = 0.25
    elif kind == "not-finite":
        features[0, 0], features[-1, tokens // 2], features[:, -1] = torch.nan, torch.inf, 0.0
    return {
        "scores": signed.softmax(dim=1),
        "signed": signed,
        "counts": torch.randint(1, tokens + 1, (images,), generator=generator),
        "pages": (features, grid),
    }


@pytest.mark.parametrize("kind", ["page", "scene", "peak", "flat", "not-finite"])
@pytest.mark.parametrize(("images", "grid"), [(1, (1, 1)), (2, (3, 5)), (3, (8, 8)), (1, (13, 12)), (2, (24, 24))])
@pytest.mark.parametrize("coverage", [None, 0.5])
def test_as_in_torch(kind: str, images: int, grid: tuple[int, int], coverage: float | None) -> None:
    from trimkit.core import _worth_triton as kernel

    for seed in range(3):
        given = _given(kind, images, grid, seed)
        for pages in (given["pages"], None):
            asked = (given["scores"], given["signed"], given["counts"], pages, coverage)
            expected, relevant = worth.weigh(*asked)
            found, chosen = kernel.weigh(*asked)
            assert found.dtype == torch.float64
            assert torch.allclose(found, expected, rtol=1e-12, atol=1e-15)
            assert chosen.dtype == torch.int64
            assert torch.equal(chosen, relevant)


def test_pages_are_told() -> None:
    """So that the cases above hold both."""
    vague = torch.ones(1, dtype=torch.float64)
    told = {kind: bool(worth.is_page(_given(kind, 1, (24, 24), 0)["pages"][0], vague)) for kind in ("page", "scene")}
    assert told == {"page": True, "scene": False}


def test_parts_of_wider_rows() -> None:
    from trimkit.core import _worth_triton as kernel

    given = _given("page", 2, (4, 5), 7)
    wider = [torch.cat([given[name], torch.ones(2, 3)], dim=1)[:, :20] for name in ("scores", "signed")]
    found = kernel.weigh(*wider, given["counts"], given["pages"], None)
    expected = worth.weigh(given["scores"], given["signed"], given["counts"], given["pages"])
    assert all(torch.allclose(one.double(), other.double()) for one, other in zip(found, expected, strict=True))
