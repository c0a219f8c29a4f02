"""Whether a greedy loop runs as a Triton kernel, or in plain torch."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trimkit.core import _greedy_device

__all__ = ["KERNELS", "KERNELS_ON", "fastest"]

_MOST_TOKENS = 4096  # that a kernel is for

_MODULES = {
    "relevant_and_new": "trimkit.core._greedy_triton",
    "largest_volume": "trimkit.core._greedy_triton",
    "most_different": "trimkit.core._greedy_pairs_triton",
    "cover": "trimkit.core._greedy_pairs_triton",
    "marginal_relevance": "trimkit.core._greedy_pairs_triton",
}  # by name: they can be imported only where Triton is

KERNELS_ON = {"cuda"}
"""Types of devices whose loops may be kernels; empty where plain torch is wanted, to compare with."""

KERNELS = {"relevant_and_new", "largest_volume"}
"""Loops that are kernels there: those that a GPU has run, with the choices of the CPU (``benchmarks/results/gpu.json``).

``most_different``, ``cover`` and ``marginal_relevance`` have one, too. On an H100 it made the choices of plain torch
(``pytest -m gpu``), but whether it is faster has not been measured; add its name to try it.
"""


def fastest(
    loop: str,
    parts: Sequence[slice],
    values: Tensor,
    choose: Callable[[Any, slice], Tensor],
    fusible: bool = True,
) -> Tensor:
    """The choices of all images: by a kernel where there is one that runs here, else in plain torch.

    Args:
        loop: its name.
        parts: images that are chosen from at a time.
        values: ``[B, N]`` on the device.
        choose: ``[b, K]`` of some images, by the loop of the module that it is given.
        fusible: whether the kernel does what is asked for.
    """
    if fusible and loop in KERNELS and _kernels_run(values):
        try:
            kernel = importlib.import_module(_MODULES[loop])
            return torch.cat([choose(kernel, at) for at in parts])
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # Triton's compiler needs things that a machine may lack, such as a C compiler
            KERNELS_ON.discard(values.device.type)
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            warnings.warn(f"the GPU kernel cannot be used here, plain torch chooses instead: {why}", stacklevel=2)
    return torch.cat([choose(_greedy_device, at) for at in parts])


def _kernels_run(values: Tensor) -> bool:
    device, tokens = values.device.type, values.shape[1]
    if device not in KERNELS_ON or torch.version.hip is not None or not 0 < tokens <= _MOST_TOKENS:
        return False
    return importlib.util.find_spec("triton") is not None
