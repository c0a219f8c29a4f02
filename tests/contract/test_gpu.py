"""On a GPU: everything kept is stock, choices are the CPU's, and nothing waits; skipped where there is none."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import trimkit
from tests import tiny
from trimkit.bench.host_waits import no_waits
from trimkit.core import _kernels, greedy, weighing
from trimkit.core.types import EncoderProfile, TokenBatch
from trimkit.methods import get_method, method_classes
from trimkit.methods._choosing import cosines

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

METHODS = sorted(name for name, cls in method_classes() if cls.stage == "tower" and name not in ("none", "resize"))
SIDE, WIDTH = 24, 64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_keep_all_and_reduced_on_cuda(dtype: torch.dtype) -> None:
    model = tiny.llava().to("cuda", dtype)
    batch = {name: value.cuda() for name, value in tiny.llava_batch([1, 2, 0], seed=4).items()}
    with torch.no_grad():
        expected = model(**batch).logits
        with trimkit.reduce(model, method="none"):
            assert torch.equal(model(**batch).logits, expected)
        with trimkit.reduce(model, method="trim", scorer=tiny.ToyScorer(), query="what") as trim:
            assert model(**batch).logits.dtype == dtype
            assert trim.report.tokens_after < trim.report.tokens_before


def _images(count: int, device: str, tokens: int = SIDE * SIDE) -> TokenBatch:
    """Noise of its own for each image, the same on every device."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(count, tokens, WIDTH, generator=generator)
    grid = (SIDE, SIDE) if tokens == SIDE * SIDE else None
    made: dict[str, Any] = {
        "features": features,
        "mask": torch.ones(count, tokens, dtype=torch.bool),
        "relevance": torch.randn(count, tokens, generator=generator),
        "cls_attention": torch.rand(count, tokens, generator=generator),
        "tower_keys": torch.randn(count, tokens, WIDTH, generator=generator),
    }
    placed = {name: value.to(device) for name, value in made.items()}
    return TokenBatch(
        **placed,
        profile=EncoderProfile(sign=1),
        grids=(grid,) * count,
        keys=tuple(map(str, range(count))),
        signals={"projected": tuple(placed["features"])},
        lengths=(tokens,) * count,
    )


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("name", METHODS)
def test_the_same_choices_as_on_the_cpu(name: str, images: int) -> None:
    method = get_method(name, budget=121)
    try:
        expected = method.select(_images(images, "cpu"))
    except trimkit.TrimkitError as error:
        pytest.skip(f"needs what noise does not have: {error}")
    found = method.select(_images(images, "cuda"))
    same = [set(a.indices.tolist()) == set(b.indices.tolist()) for a, b in zip(expected, found, strict=True)]
    assert all(same), f"{same.count(False)} of {images} images are chosen otherwise"


@pytest.mark.parametrize("tokens", [40, 576, 1500, 2880])
@pytest.mark.parametrize("images", [1, 3])
def test_the_kernel_chooses_as_plain_torch(tokens: int, images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    batch = _images(images, "cuda", tokens)
    assert batch.relevance is not None
    worth, counts, totals = batch.relevance.sigmoid(), [tokens // 5, 7, tokens // 3][:images], [tokens] * images
    similar, broken = cosines(batch.features), torch.zeros_like(worth, dtype=torch.bool)
    loops = {
        "relevant_and_new": lambda: greedy.relevant_and_new(worth, batch.features, counts, totals),
        "largest_volume": lambda: greedy.largest_volume(worth, batch.features, counts, totals),
        "most_different": lambda: greedy.most_different(1.0 - similar, counts, totals, broken),
        "cover": lambda: greedy.cover(worth, similar, counts, totals),
        "marginal_relevance": lambda: greedy.marginal_relevance(worth, similar, tokens // 5, 0.5),
    }
    monkeypatch.setattr(_kernels, "KERNELS", set(loops))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the GPU kernel")  # that it cannot be used is a warning
        monkeypatch.setattr(_kernels, "KERNELS", set(loops))
    fused = {name: loop() for name, loop in loops.items()}
    monkeypatch.setattr(_kernels, "KERNELS_ON", set())
    for name, loop in loops.items():
        assert torch.equal(fused[name], loop()), name


@pytest.mark.parametrize("totals", [[1, 1], [40, 36, 40], [576] * 4, [576, 64, 300], [2880, 1500]])
@pytest.mark.parametrize("coverage", [None, 0.3])
def test_the_kernel_weighs_as_plain_torch(
    totals: list[int], coverage: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    batch = _images(len(totals), "cuda", max(totals))
    grids = [(total // 4 or 1, min(total, 4)) for total in totals]
    signed, counts = batch.signed_relevance(1), [max(total // 5, 1) for total in totals]
    assert signed is not None
    padding = torch.arange(max(totals)).cuda() >= torch.tensor(totals).cuda()[:, None]
    scores = signed.masked_fill(padding, -torch.inf).softmax(dim=1)
    repeated = batch.features[:, torch.arange(max(totals), device="cuda") % 3]
    for pages in ((batch.features, grids), (repeated, grids), (batch.features.bfloat16(), grids), None):
        asked = (scores, signed, counts, totals, pages, coverage)
        monkeypatch.setattr(_kernels, "KERNELS", {"worth"})
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="the GPU kernel")  # that it cannot be used is a warning
            found, relevant = weighing.weigh(*asked)
        monkeypatch.setattr(_kernels, "KERNELS", set())
        expected, of_torch = weighing.weigh(*asked)
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert torch.equal(relevant, of_torch)


def test_the_kernels_know_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    features, worth = torch.randn(3, 576, WIDTH).cuda(), torch.rand(3, 576).cuda()
    totals, counts = [576, 200, 433], [121, 7, 300]
    for row, total in enumerate(totals):
        features[row, total:], worth[row, total:] = 0.0, 0.0
    features[0, 5], features[1, 0] = torch.nan, torch.inf
    similar, broken = cosines(features), ~features.isfinite().all(dim=2)
    distances = (1.0 - similar).masked_fill(broken.unsqueeze(1), -1.0)
    distances.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    loops = {
        "most_different": lambda: greedy.most_different(distances, counts, totals, broken),
        "cover": lambda: greedy.cover(worth, similar, counts, totals),
    }
    monkeypatch.setattr(_kernels, "KERNELS", set(loops))
    fused = {name: loop() for name, loop in loops.items()}
    monkeypatch.setattr(_kernels, "KERNELS_ON", set())
    for name, loop in loops.items():
        assert torch.equal(fused[name], loop()), name


@pytest.mark.parametrize("name", ["trim", "focus", "cdpruner", "scope", "random", "uniform", "dart-tower", "mmr"])
def test_choosing_never_waits(name: str) -> None:
    method, batch = get_method(name, budget=121), _images(4, "cuda")
    method.select(batch)  # what is made once
    torch.cuda.synchronize()
    with no_waits():
        method.select(batch)


def test_a_batch_answers_as_its_rows() -> None:
    model = tiny.llava().cuda()
    batch = {name: value.cuda() for name, value in tiny.llava_batch([1, 1, 1, 1], seed=5).items()}
    with trimkit.reduce(model, method="focus", budget=9, scorer=tiny.ToyScorer(), query="what"):
        together = model.generate(**batch, **tiny.GREEDY)
        for row in range(4):
            alone = {name: value[row : row + 1] for name, value in batch.items()}
            assert torch.equal(model.generate(**alone, **tiny.GREEDY)[0], together[row])
