"""Copied into site-packages of the test environment: torchvision beside a CPU build of torch.

torchvision's wheel is built for CUDA and cannot load its operators here, and then fails on import, since it registers shapes
for two of them. Nothing in the tests calls these; they are declared just before torchvision is imported. A ``.pth`` file beside
this module installs the finder in every process of a server.
"""

from __future__ import annotations

import sys
from typing import Any


class Declare:
    """A finder that finds nothing: it waits for torchvision to be asked for."""

    library: Any = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name != "torchvision" or Declare.library is not None:
            return
        import torch

        Declare.library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            Declare.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, Declare())
