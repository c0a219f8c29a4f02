"""Write a module of tensors as an ONNX file, by torch's own exporter."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.engines.packages import need, refuse_old_torch
from trimkit.errors import UnsupportedError

__all__ = ["refuse_hooks", "refuse_weights", "weights_hash", "write_onnx"]

_ONE_FILE = 2**30  # bytes of weights; ONNX's own limit is 2 GB with everything else


def write_onnx(
    module: nn.Module,
    path: Path,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
) -> None:
    """Export ``module`` to ``path``; large weights go to ``path`` with ``.data`` behind it.

    Args:
        module: in eval mode, in float32 on the CPU.
        path: the file.
        inputs: examples by the name of the argument. A dimension that is to vary must be larger than 1 in them.
        outputs: names of what the module returns.
        dynamic: of every input, names of the dimensions that vary, by their number.

    Raises:
        MissingDependencyError: onnx or onnxscript is not installed, or torch is too old.
        UnsupportedError: torch cannot export the module.
    """
    refuse_old_torch()
    need("onnx")
    need("onnxscript")
    names = {name: torch.export.Dim(name, min=1) for dims in dynamic.values() for name in dims.values()}
    shapes = {name: {number: names[dim] for number, dim in dynamic[name].items()} for name in inputs}
    with _quiet(), torch.no_grad():
        try:
            program: Any = torch.onnx.export(
                module,
                kwargs=dict(inputs),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
            )
        except Exception as error:  # the exporter fails in ways of its own
            line = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise UnsupportedError(f"torch {torch.__version__} cannot export this model to ONNX ({line})") from error
    weights = sum(value.nbytes for value in module.state_dict().values())
    program.save(str(path), external_data=weights > _ONE_FILE)


def refuse_weights(module: nn.Module, what: str) -> None:
    """Refuse weights that are not in float32 on the CPU, and parts that somebody has hooked: a graph would not have the hooks.

    Raises:
        UnsupportedError: as it says.
    """
    for name, weight in module.named_parameters():
        if weight.dtype != torch.float32 or weight.device.type != "cpu":
            kind = str(weight.dtype).removeprefix("torch.")
            raise UnsupportedError(
                f"{what} takes weights in float32 on the CPU, and {name} is in {kind} on {weight.device}: load the model with "
                "dtype float32 on the CPU"
            )
    refuse_hooks(module, what)


def refuse_hooks(module: nn.Module, what: str) -> None:
    """See ``refuse_weights``. The hooks that transformers leaves on layers, to give out hidden states, change nothing."""
    for name, part in module.named_modules():
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        foreign = [hook for hook in hooks if not str(getattr(hook, "__module__", "")).startswith("transformers.")]
        if foreign or "forward" in vars(part):
            raise UnsupportedError(f"{what} would pass over the hook on {name or type(part).__name__}: remove it first")


def weights_hash(module: nn.Module, *about: object) -> str:
    """SHA-256 of every tensor of ``module`` with its name, and of ``about``; 64 hexadecimal digits."""
    found = hashlib.sha256(repr(about).encode())
    for name, value in sorted(module.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own inner workings, and logs what other packages it has not found."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
