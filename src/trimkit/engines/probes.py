"""Pictures to try an engine on: nothing that a user has to provide, but no noise alone, either."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["probe_pixels"]


def probe_pixels(side: int) -> Tensor:
    """``[2, 3, side, side]`` float32 processed pixels: smooth waves with a bright square, and noise. The same each time."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    waves = [torch.sin(2 * math.pi * (3 * x + k * y + 0.1 * k)) + x * y for k in range(1, 4)]
    smooth = torch.stack(waves)
    quarter = side // 4
    smooth[0, quarter : 2 * quarter, quarter : 2 * quarter] = 2.0
    noise = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))
    return torch.stack([smooth, noise])
