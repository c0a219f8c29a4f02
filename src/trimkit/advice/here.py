"""This machine's figures, measured in about ten seconds: matrix products, reading, copying, launches and waits."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable

import torch
from torch import Tensor

from trimkit.advice.devices import Device, Rate
from trimkit.bench.machine import fast_bfloat16, free_bytes
from trimkit.io.provenance import hardware

__all__ = ["measured"]

_WIDTH = 4096
_FEW, _MANY = 160, 640  # tokens
_CALLS = 300
_LARGER = 16  # on a GPU, where a launch takes as long as the work that a CPU is measured with

Timer = Callable[[Callable[[], object]], float]


def measured(device: torch.device) -> Device:
    """The device that torch runs on here, with the threads that it has now.

    On a CPU with one thread it is the thread's processor time that counts, so that other programs do not.
    """
    timer = _timer(device)
    dtypes = [torch.bfloat16, torch.float16] if device.type == "cuda" else [torch.float32]
    if device.type == "cpu" and fast_bfloat16():
        dtypes.append(torch.bfloat16)
    about = hardware(device.type)
    name = str(about["device"]) if device.type == "cuda" else f"{about['cpu']}, {about['threads']} threads"
    gpu = device.type == "cuda"
    products = {dtype: _products(device, dtype, timer) for dtype in dtypes}
    first = products[dtypes[0]]
    launch, wait = _calls(device, timer)
    return Device(
        name=name,
        rates={str(dtype).removeprefix("torch."): rate for dtype, (rate, _, _) in products.items()},
        half_rows=first[1] if gpu else 0.0,
        attention=_attention(device, dtypes[0], timer) / first[0].flops,
        bandwidth=first[2],
        elementwise=_elementwise(device, dtypes[0], timer),
        cache=_growing(device, dtypes[0], timer),
        launch_s=launch,
        kernel_s=2e-6 if gpu else 0.0,
        wait_s=wait if gpu else 0.0,
        overlaps=gpu,
        memory=float(free_bytes(device) or 0),
        source="measured here",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def _timer(device: torch.device) -> Timer:
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def least(run: Callable[[], object]) -> float:
        """Seconds of the fastest of a few runs."""
        run()
        found = []
        for _ in range(4):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found.append(clock() - start)
        return min(found)

    return least


def _products(device: torch.device, dtype: torch.dtype, timer: Timer) -> tuple[Rate, float, float]:
    """Rate, tokens at half of it, and bytes/s of weights read for one token; by three matrices that no cache holds."""
    weights = [torch.randn(_WIDTH, _WIDTH, device=device, dtype=dtype) for _ in range(3)]

    def seconds(rows: int) -> float:
        x = torch.randn(rows, _WIDTH, device=device, dtype=dtype)
        return timer(lambda: [torch.nn.functional.linear(x, weight) for weight in weights]) / len(weights)

    if device.type == "cuda":
        many, large = seconds(_MANY), seconds(16 * _MANY)
        flops = 2 * 16 * _MANY * _WIDTH**2 / large
        ideal = 2 * _MANY * _WIDTH**2 / flops
        return Rate(flops), max(_MANY * (many / ideal - 1), 1.0), _reading(device, dtype, timer)
    one, few, many = seconds(1), seconds(_FEW), seconds(_MANY)
    size = weights[0].nbytes
    per_row = max(many - few, 1e-9) / (
        _MANY - _FEW
    )  # what grows with the tokens is arithmetic; the rest lays weights out
    fixed = max(few - _FEW * per_row, size / (16 * size / one))
    return Rate(2 * _WIDTH**2 / per_row, size / fixed), 0.0, size / one


def _reading(device: torch.device, dtype: torch.dtype, timer: Timer) -> float:
    """Bytes/s of weights read for one token, by one matrix that takes far longer than a launch."""
    weight = torch.randn(_LARGER * _WIDTH, _WIDTH, device=device, dtype=dtype)
    x = torch.randn(1, _WIDTH, device=device, dtype=dtype)
    return weight.nbytes / timer(lambda: torch.nn.functional.linear(x, weight))


def _attention(device: torch.device, dtype: torch.dtype, timer: Timer) -> float:
    images = 1 if device.type == "cpu" else _LARGER
    q = torch.randn(images, 16, 577, 64, device=device, dtype=dtype)
    return images * 4 * 577 * 577 * 1024 / timer(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))


def _elementwise(device: torch.device, dtype: torch.dtype, timer: Timer) -> float:
    x = torch.randn(2048 if device.type == "cpu" else 65_536, 1024, device=device, dtype=dtype)
    return 2 * x.nbytes / timer(lambda: torch.nn.functional.gelu(x))


def _growing(device: torch.device, dtype: torch.dtype, timer: Timer) -> float:
    """As decoding has it: keys and values of several layers grow by one, in new memory, and one query attends to them.

    On a GPU they grow from the same length each time: attention over a new length is prepared anew there, for milliseconds.
    """
    rows, grows = (1, True) if device.type == "cpu" else (_LARGER, False)
    layers = [[torch.randn(rows, 32, 680, 128, device=device, dtype=dtype) for _ in range(2)] for _ in range(4)]
    new = torch.randn(rows, 32, 1, 128, device=device, dtype=dtype)

    def step() -> None:
        for held in layers:
            longer = [torch.cat([each, new], dim=-2) for each in held]
            torch.nn.functional.scaled_dot_product_attention(new, longer[0], longer[1])
            if grows:
                held[:] = longer

    return 3 * sum(each.nbytes for held in layers for each in held) / timer(step)


def _calls(device: torch.device, timer: Timer) -> tuple[float, float]:
    """Seconds of a small kernel's launch, and of a value's way to the host.

    A model's own code stands around every call: a launch is measured within a module's.
    """
    layer = torch.nn.LayerNorm(8, device=device)
    x = torch.randn(1, 8, device=device)

    def launches() -> None:
        y: Tensor = x
        for _ in range(_CALLS):
            y = layer(y)

    with torch.no_grad():
        launch = timer(launches) / _CALLS
        wait = timer(lambda: [float(x[0, 0]) for _ in range(_CALLS)]) / _CALLS
    return launch, wait
