"""The weighing of Focus as a kernel gives what plain torch gives, in Triton's interpreter: run by `make test-kernels`."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from trimkit.core import _kernels, _weighing_device, transfer, weighing

pytest.importorskip("triton", reason="Triton is not installed: run `make test-kernels`")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton's interpreter is not on: run `make test-kernels`", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # the interpreter's
GRIDS = [[(1, 1)], [(3, 5), (3, 5)], [(8, 8)] * 3, [(13, 12)], [(24, 24), (6, 7), (1, 40), (24, 3)]]


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ONE_BY_ONE", frozenset())
    monkeypatch.setattr(_kernels, "KERNELS_ON", {"cpu"})
    monkeypatch.setattr(_kernels, "KERNELS", {"worth"})
    monkeypatch.setattr(_kernels, "_PROVED", set())


def _given(kind: str, grids: list[tuple[int, int]], seed: int) -> dict[str, Any]:
    """What ``weighing.weigh`` takes: features of scenes repeat a few looks, those of pages none."""
    generator = torch.Generator().manual_seed(seed)
    totals = [rows * columns for rows, columns in grids]
    images, tokens = len(grids), max(totals)
    features = torch.randn(images, tokens, 24, generator=generator)
    if kind != "page":
        looks = torch.randn(images, 3, 24, generator=generator)
        features = 0.2 * features + looks[:, torch.arange(tokens) % 3]
    signed = torch.randn(images, tokens, generator=generator)
    if kind == "peak":
        signed[:, : max(tokens // 9, 1)] += 12.0
    elif kind == "flat":
        signed[:] = 0.25
    elif kind == "not-finite":
        features[0, 0], features[-1, tokens // 2], features[:, -1] = torch.nan, torch.inf, 0.0
    padding = torch.arange(tokens) >= torch.tensor(totals)[:, None]
    scores = signed.masked_fill(padding, -torch.inf).softmax(dim=1)
    counts = [int(torch.randint(1, total + 1, (1,), generator=generator)) for total in totals]
    # Behind the last token lies what nobody may read.
    return {
        "scores": scores,
        "signed": signed.masked_fill(padding, 99.0),
        "counts": counts,
        "totals": totals,
        "pages": (features, [None if row % 3 == 2 else grid for row, grid in enumerate(grids)]),
    }


@pytest.mark.parametrize("kind", ["page", "scene", "peak", "flat", "not-finite"])
@pytest.mark.parametrize("grids", GRIDS, ids=str)
@pytest.mark.parametrize("coverage", [None, 0.3])
def test_as_in_torch(
    kind: str, grids: list[tuple[int, int]], coverage: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(2):
        given = _given(kind, grids, seed)
        for pages in (given["pages"], None):
            asked = {**given, "pages": pages, "coverage": coverage}
            with monkeypatch.context() as plain:
                plain.setattr(_kernels, "KERNELS", set())
                expected, relevant = weighing.weigh(**asked)
            found, chosen = weighing.weigh(**asked)
            assert "worth" in _kernels.KERNELS  # it was not given up
            assert found.dtype == torch.float64
            assert torch.allclose(found, expected, rtol=1e-12, atol=1e-15)
            assert chosen.dtype == torch.int64
            assert torch.equal(chosen, relevant)


def test_a_kernel_that_is_wrong_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from trimkit.core import _weighing_triton as kernel

    given, right = _given("page", [(8, 8)] * 2, 0), kernel.weigh

    def wrong(*asked: Any) -> Any:
        worth, relevant = right(*asked)
        return worth, relevant + 1

    monkeypatch.setattr(kernel, "weigh", wrong)
    with pytest.warns(UserWarning, match="does not give what plain torch does"):
        _, relevant = weighing.weigh(**given)
    assert not _kernels.KERNELS
    monkeypatch.setattr(kernel, "weigh", right)
    assert torch.equal(relevant, weighing.weigh(**given)[1])


def test_it_is_proved_on_pages_and_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Kernel:
        @staticmethod
        def weigh(*asked: Any) -> Any:
            features, sizes = asked[3], asked[4]
            seen.append(
                _weighing_device._few_alike(*_weighing_device.compare(features, sizes), sizes).flatten().tolist()
            )
            return _weighing_device.weigh(*asked)

    given = _given("scene", [(24, 24)] * 2, 0)
    sizes = _weighing_device.sizes_of((576, 576), ((24, 24),) * 2, 576, torch.device("cpu"))
    asked = (given["signed"], torch.tensor([9, 9]), given["pages"][0], sizes)
    assert _weighing_device.as_in_torch(Kernel, *asked)
    assert seen == [[True, True], [False, False]]
