"""Whether a greedy loop, or the weighing of Focus, runs as a Triton kernel or in plain torch."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from trimkit.core import _greedy_device

__all__ = ["KERNELS", "KERNELS_ON", "fastest", "fused"]

T = TypeVar("T")

_MOST_TOKENS = 4096  # that a kernel is for

_MODULES = {
    "relevant_and_new": "trimkit.core._greedy_triton",
    "largest_volume": "trimkit.core._greedy_triton",
    "most_different": "trimkit.core._greedy_pairs_triton",
    "cover": "trimkit.core._greedy_pairs_triton",
    "marginal_relevance": "trimkit.core._greedy_pairs_triton",
    "worth": "trimkit.core._weighing_triton",
}  # by name: they can be imported only where Triton is

KERNELS_ON = {"cuda"}
"""Types of devices whose loops may be kernels; empty where plain torch is wanted, to compare with."""

KERNELS = {"relevant_and_new", "largest_volume", "worth"}
"""What is a kernel there: loops that a GPU has run, with the choices of the CPU (``benchmarks/results/gpu.json``), and
``worth``, which has to give what plain torch gives of made-up images first.

``most_different``, ``cover`` and ``marginal_relevance`` have one, too. On an H100 it made the choices of plain torch
(``pytest -m gpu``), but whether it is faster has not been measured; add its name to try it.
"""


_PROVED: set[tuple[object, ...]] = set()  # kernels and variants that were right


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
    if fusible:
        found = fused(loop, values, lambda kernel: torch.cat([choose(kernel, at) for at in parts]))
        if found is not None:
            return found
    return torch.cat([choose(_greedy_device, at) for at in parts])


def fused(
    name: str,
    values: Tensor,
    run: Callable[[Any], T],
    proof: Callable[[Any], bool] | None = None,
    variant: tuple[object, ...] = (),
) -> T | None:
    """What a kernel gives; None where there is none that runs here.

    One that fails is not tried again in this process, and a warning says so.

    Args:
        name: of what the kernel does.
        values: ``[B, N]`` on the device.
        run: calls the kernel, given its module.
        proof: whether the kernel is right; asked once for each ``variant`` in a process, and may make the host wait.
        variant: of the kernel, as it is compiled.
    """
    if name not in KERNELS or not _kernels_run(values):
        return None
    guard = torch.cuda.device(values.device) if values.device.type == "cuda" else contextlib.nullcontext()
    try:
        kernel = importlib.import_module(_MODULES[name])
        with guard:  # Triton launches on the current device
            if proof is not None and (name, *variant) not in _PROVED:
                if not proof(kernel):
                    raise ArithmeticError("it does not give what plain torch does")
                _PROVED.add((name, *variant))
            return run(kernel)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # Triton's compiler needs things that a machine may lack, such as a C compiler
        KERNELS.discard(name)
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(f"the GPU kernel {name!r} cannot be used here, plain torch takes its place: {why}", stacklevel=2)
        return None


def _kernels_run(values: Tensor) -> bool:
    device, tokens = values.device.type, values.shape[1]
    if device not in KERNELS_ON or torch.version.hip is not None or not 0 < tokens <= _MOST_TOKENS:
        return False
    return importlib.util.find_spec("triton") is not None
