"""A tiny LLaVA and a ragged batch for it: one picture in the first row, two in the second."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import tiny


@pytest.fixture
def model() -> Any:
    return tiny.llava()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return tiny.llava_batch([1, 2], seed=2)
