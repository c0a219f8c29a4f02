"""Vectors of published code: a directory with ``manifest.json`` and one ``.safetensors`` a case, and how one is checked.

An entry of the manifest has ``method``, ``parameters``, and ``inputs`` and ``outputs``, which name the file's tensors. An
adapter gets the vector and gives back every output by its name. Whole numbers have to be equal, in the order given; what is
merged may be off by 1e-5, or by what the adapter says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["Adapter", "Vector", "check", "names_in", "read"]

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Vector:
    """One case: ``inputs`` of the published code, what it was called with, and its ``outputs``."""

    method: str
    parameters: dict[str, Any]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclass(frozen=True)
class Adapter:
    """Runs a method on a vector.

    Attributes:
        run: gives the outputs by name.
        tolerance: of outputs that are no whole numbers.
    """

    run: Callable[[Vector], Mapping[str, Tensor | int]]
    tolerance: float = TOLERANCE


def names_in(directory: Path) -> list[str]:
    """File names of a directory's vectors.

    Raises:
        ValueError: there are none, a file is not in the manifest, or an entry has no outputs: nothing would be checked.
    """
    entries = json.loads((directory / "manifest.json").read_text())
    silent = [name for name, entry in entries.items() if not entry["outputs"]]
    unlisted = sorted({path.name for path in directory.glob("*.safetensors")} - set(entries))
    if not entries or silent or unlisted:
        raise ValueError(
            f"{directory}: {len(entries)} vectors; without outputs {silent}, not in the manifest {unlisted}"
        )
    return sorted(entries)


def read(directory: Path, name: str) -> Vector:
    """One vector of a directory."""
    entry = json.loads((directory / "manifest.json").read_text())[name]
    tensors = load_file(directory / name)
    return Vector(
        method=entry["method"],
        parameters=entry["parameters"],
        inputs={each: tensors[each] for each in entry["inputs"]},
        outputs={each: tensors[each] for each in entry["outputs"]},
    )


def check(vector: Vector, adapter: Adapter) -> None:
    """Fail where trimkit does not give what the published code gave; every output is looked at."""
    found = adapter.run(vector)
    for name, expected in vector.outputs.items():
        assert name in found, f"the adapter of {vector.method!r} does not give {name!r}"
        given = torch.as_tensor(found[name])
        if expected.dtype.is_floating_point:
            kwargs = {"rtol": adapter.tolerance, "atol": adapter.tolerance}
            torch.testing.assert_close(given.to(expected.dtype), expected, **kwargs, msg=lambda m, n=name: f"{n}: {m}")
        else:
            assert given.tolist() == expected.tolist(), name
