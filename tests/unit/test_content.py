"""Keys of pictures: of bytes on the host, and of sums where the pictures are on a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from trimkit.core import transfer
from trimkit.core.content import content_key, digested, public_key


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ONE_BY_ONE", frozenset())


def key(pixels: torch.Tensor) -> str:
    sums = digested(pixels)
    assert sums is not None
    return content_key({"pixel_values": sums}, ["pixel_values"])


def test_the_host_reads_its_own_pixels_and_small_ones() -> None:
    assert digested(torch.rand(2, 3, 64, 64)) is None


def test_small_tensors_are_not_summed(as_on_a_gpu: None) -> None:
    assert digested(torch.ones(2, 3, dtype=torch.int64)) is None
    assert digested(torch.rand(3, 40, 40)[0, 0]) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3, 40, 40), (2, 5, 3, 40, 40), (200, 1176), (2, 64, 768)])
def test_one_changed_bit_or_place_is_another_picture(
    as_on_a_gpu: None, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    sums = digested(pixels)
    assert sums is not None
    assert sums.ndim == pixels.ndim
    assert sums.shape[0] == pixels.shape[0]
    assert key(pixels) == key(pixels.clone())
    other = pixels.clone()
    other.view(-1)[7] = -other.view(-1)[7]  # only the sign's bit
    assert key(other) != key(pixels)
    swapped = pixels.clone()
    swapped.view(-1)[:2] = swapped.view(-1)[:2].flip(0)
    assert key(swapped) != key(pixels)
    assert key(pixels.flip(0)) != key(pixels)


def test_a_picture_alone_has_the_digest_that_it_has_in_a_batch(as_on_a_gpu: None) -> None:
    pixels = torch.rand(4, 3, 64, 64)
    together = digested(pixels)
    assert together is not None
    for row in range(4):
        assert torch.equal(together[row : row + 1], digested(pixels[row : row + 1]))  # type: ignore[arg-type]


def test_shape_and_dtype_count(as_on_a_gpu: None) -> None:
    pixels = torch.rand(1, 3, 64, 32)
    assert key(pixels) != key(pixels.view(1, 3, 32, 64))
    assert key(pixels) != key(pixels.view(torch.int32).view(1, 3, 64, 32))


def test_strided_pixels_are_read_in_their_order(as_on_a_gpu: None) -> None:
    pixels = torch.rand(1, 64, 64, 3).permute(0, 3, 1, 2)
    assert key(pixels) == key(pixels.contiguous())


CODE = """
import torch
from trimkit.core import transfer
transfer.ONE_BY_ONE = frozenset()
from trimkit.core.content import content_key, digested
print(content_key({"pixel_values": digested(torch.arange(6000.0).view(1, 3, 40, 50))}, ["pixel_values"]))
"""


def test_other_processes_agree_in_the_public_part_alone() -> None:
    keys = {
        subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stdout.strip()
        for _ in range(2)
    }
    assert len(keys) == 2
    assert len({public_key(each) for each in keys}) == 1
    secret = "0123456789abcdef" * 2
    assert public_key(f"ab~{secret}#3|a question ~ with a mark") == "ab#3|a question ~ with a mark"
