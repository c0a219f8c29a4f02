"""Numbers between host and device: bytes of many tensors in one copy, and rows of a padded batch."""

from __future__ import annotations

import torch

from trimkit.core import transfer

TENSORS = [
    torch.tensor([[True, False, True]]),
    torch.arange(12).view(3, 4).T,
    torch.randn(5, 3, dtype=torch.bfloat16),
    torch.empty(0, 7),
    torch.randn(2, 3, 2),
    torch.tensor(2.5, dtype=torch.float64),
    torch.arange(3, dtype=torch.int16),
]


def test_one_copy_of_many_tensors() -> None:
    copies = transfer._copied(TENSORS)
    assert all(copy.dtype == each.dtype for copy, each in zip(copies, TENSORS, strict=True))
    assert all(torch.equal(copy, each) for copy, each in zip(copies, TENSORS, strict=True))


def test_what_is_on_the_host_is_not_copied() -> None:
    found = transfer.fetch(TENSORS)
    assert [each.data_ptr() for each in found] == [each.data_ptr() for each in TENSORS]
    assert transfer.fetch([]) == []


def test_upload_gives_numbers_of_its_own() -> None:
    numbers = [3, 1, 2]
    there = transfer.upload(numbers, torch.device("cpu"))
    assert there.dtype == torch.int64
    assert there.tolist() == numbers
    assert transfer.upload([0.5], torch.device("cpu")).dtype == torch.float64


def test_rows_of_a_padded_batch() -> None:
    padded = torch.arange(24).view(3, 4, 2)
    for lengths in ([4, 4, 4], [2, 2, 2], [4, 0, 3], [1, 2, 3]):
        rows = transfer.rows_of(padded, lengths)
        assert [row.tolist() for row in rows] == [padded[i, :n].tolist() for i, n in enumerate(lengths)]
    assert transfer.rows_of(padded[:0], []) == []
