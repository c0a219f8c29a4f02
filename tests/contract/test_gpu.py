"""Everything kept is stock on a GPU in half precision, too; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

import trimkit
from tests import tiny

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


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
