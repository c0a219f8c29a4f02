"""What a result of ``trimkit bench`` says of how it came about."""

from __future__ import annotations

import datetime
from typing import Any

import torch

from trimkit.bench.shapes import Shape
from trimkit.bench.subject import Subject
from trimkit.io.provenance import hardware, versions

__all__ = ["provenance", "weights"]


def weights(subject: Subject) -> int:
    """Bytes of the model's weights; a tied one counts once."""
    return sum(weight.nbytes for weight in subject.model.parameters())


def provenance(config: dict[str, Any], subject: Subject, shape: Shape | None) -> dict[str, Any]:
    """Date, config, shape, dtype, threads, versions and hardware."""
    device = subject.model.device
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "config": config,
        "shape": None if shape is None else shape.to_plain(),
        "dtype": str(subject.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seed": config["seed"],
        "weights_bytes": weights(subject),
        "versions": versions(),
        "hardware": hardware(device.type),
    }
