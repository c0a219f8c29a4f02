"""What a device can do: one entry of ``DEVICES`` is one device; a new entry is all it takes.

Peaks and bandwidths are their makers' published figures (dense, without sparsity), with the sheet they stand in. What no maker
publishes is what a kernel costs a Python program before it runs: 7 µs a launch and 15 µs a wait are the middle of what PyTorch
programs are commonly seen to take (5 to 10 and 10 to 20); ``--device here`` measures both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from trimkit.errors import ConfigError, UnknownNameError

__all__ = ["DEVICES", "Device", "Rate", "device_of"]


@dataclass(frozen=True)
class Rate:
    """Arithmetic in one dtype.

    Attributes:
        flops: FLOP/s that large matrix products reach.
        pack: bytes/s at which weights are laid out for a product, before it runs: a CPU does so each time. 0 where there is no
            such step.
    """

    flops: float
    pack: float = 0.0


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: how it is shown.
        rates: by dtype.
        half_rows: tokens at which a matrix product reaches half of its rate: fewer do not fill a GPU.
        attention: attention's share of that rate.
        bandwidth: bytes/s read by what waits for memory: weights in decoding.
        elementwise: bytes/s of activations, norms and additions.
        cache: bytes/s of a decoding step that copies a growing KV cache and attends to it.
        launch_s: what the host takes for a kernel.
        kernel_s: the least that the device takes for a kernel.
        wait_s: a host that waits for the device.
        overlaps: whether host and device work at a time, and memory is read while products run.
        memory: bytes.
        source: where the figures come from.
        date: of the source.
    """

    name: str
    rates: dict[str, Rate]
    half_rows: float
    attention: float
    bandwidth: float
    elementwise: float
    cache: float
    launch_s: float
    kernel_s: float
    wait_s: float
    overlaps: bool
    memory: float
    source: str
    date: str

    def rate(self, dtype: str) -> Rate:
        """Of a dtype.

        Raises:
            ConfigError: the device does not multiply it, or it is not known how fast.
        """
        if dtype not in self.rates:
            raise ConfigError(f"{self.name} has no figures for {dtype}: give --dtype {' or '.join(self.rates)}")
        return self.rates[dtype]

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


_REACHED = 0.75
"""Share of a published peak that large products of a 7B's widths reach; 80 % of an H100's 989 were seen on squares of 8,192."""

_READ = 0.85
"""Share of a published bandwidth."""


def _gpu(
    name: str, tflops: float, terabytes: float, gigabytes: float, half_rows: float, source: str, date: str
) -> Device:
    rate = Rate(_REACHED * tflops * 1e12)
    read = _READ * terabytes * 1e12
    return Device(
        name=name,
        rates={"bfloat16": rate, "float16": rate},
        half_rows=half_rows,
        attention=0.5,
        bandwidth=read,
        elementwise=read,
        cache=read,
        launch_s=7e-6,
        kernel_s=2e-6,
        wait_s=15e-6,
        overlaps=True,
        memory=gigabytes * 1e9,
        source=source,
        date=date,
    )


DEVICES = {
    "h200": _gpu("NVIDIA H200 SXM", 989, 4.8, 141, 128, "NVIDIA H200 datasheet", "2024-11"),
    "h100": _gpu("NVIDIA H100 SXM 80 GB", 989, 3.35, 80, 128, "NVIDIA H100 datasheet", "2023-03"),
    "h100-pcie": _gpu("NVIDIA H100 PCIe 80 GB", 756, 2.0, 80, 128, "NVIDIA H100 datasheet", "2023-03"),
    "a100": _gpu("NVIDIA A100 SXM 80 GB", 312, 2.039, 80, 96, "NVIDIA A100 datasheet", "2021-06"),
    "a100-40gb": _gpu("NVIDIA A100 SXM 40 GB", 312, 1.555, 40, 96, "NVIDIA A100 datasheet", "2021-06"),
    "l40s": _gpu("NVIDIA L40S", 362, 0.864, 48, 96, "NVIDIA L40S datasheet", "2023-08"),
    "l4": _gpu("NVIDIA L4", 121, 0.3, 24, 48, "NVIDIA L4 datasheet", "2023-03"),
    "a10": _gpu("NVIDIA A10", 125, 0.6, 24, 64, "NVIDIA A10 datasheet", "2021-04"),
    "rtx-4090": _gpu("NVIDIA RTX 4090", 165, 1.008, 24, 96, "NVIDIA Ada GPU architecture paper", "2022-10"),
    "rtx-3090": _gpu("NVIDIA RTX 3090", 71, 0.936, 24, 64, "NVIDIA GA102 architecture paper", "2020-09"),
    # No sheet says what one core reaches: `trimkit advise --device here --threads 1`, medians of four runs; what a growing
    # cache takes is that of a fresh process, whose memory is new each time.
    "epyc-core": Device(
        name="one core of an AMD EPYC with AVX-512",
        rates={"float32": Rate(94e9, 9e9), "bfloat16": Rate(210e9)},
        half_rows=0.0,
        attention=0.8,
        bandwidth=19.5e9,
        elementwise=12e9,
        cache=4e9,
        launch_s=5.2e-6,
        kernel_s=0.0,
        wait_s=0.0,
        overlaps=False,
        memory=16e9,
        source="trimkit advise --device here --threads 1",
        date="2026-11-27",
    ),
}


def device_of(name: str) -> Device:
    """The device called ``name``.

    Raises:
        UnknownNameError: there is none; the nearest name is given.
    """
    if name not in DEVICES:
        raise UnknownNameError("device", name, [*DEVICES, "here"])
    return DEVICES[name]
