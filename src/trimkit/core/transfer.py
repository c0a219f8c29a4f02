"""Numbers between the host and a model's device, without making the host wait where that can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.overrides import handle_torch_function, has_torch_function

__all__ = ["ONE_BY_ONE", "beside", "fetch", "one_by_one", "padded", "rows_of", "stacked", "upload"]

ONE_BY_ONE = frozenset({"cpu"})  # types of devices; tests empty it, to run on a CPU what runs on a GPU


def one_by_one(device: torch.device) -> bool:
    """Whether images and questions of a call are computed one by one, so that no rounding depends on the others.

    It is so on the CPU, where a call costs little beside its arithmetic. Elsewhere they are computed together.
    """
    return device.type in ONE_BY_ONE


def fetch(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors on the host, by one transfer for all that are elsewhere; those on the host as they are.

    A ``TorchFunctionMode`` sees it as one call.
    """
    if has_torch_function(tensors):
        return handle_torch_function(fetch, tensors, tensors)
    done = [each.detach() for each in tensors]
    for device in {each.device for each in done if each.device.type != "cpu"}:
        away = [i for i, each in enumerate(done) if each.device == device]
        for i, copy in zip(away, _copied([done[i] for i in away]), strict=True):
            done[i] = copy
    return done


def _copied(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors of one device on the host, through one copy of all their bytes."""
    # The widest first, so that each begins where its dtype may.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].itemsize)
    parts = [tensors[i].contiguous().flatten().view(torch.uint8) for i in order]
    host = torch.split(torch.cat(parts).cpu(), [len(part) for part in parts])
    copies = dict(zip(order, host, strict=True))
    return [copies[i].view(each.dtype).view(each.shape) for i, each in enumerate(tensors)]


def upload(values: ArrayLike, device: torch.device) -> Tensor:
    """Numbers of the host as a tensor on ``device``; integers are int64. Does not wait for what the device has to do."""
    given = np.array(values, copy=True)
    return torch.from_numpy(given if given.size else given.astype(np.int64)).to(device, non_blocking=True)


def beside(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``; without a call into torch where it is there."""
    return tensor if tensor.device == device else tensor.to(device)


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """``torch.stack``; of a single tensor no copy, but a view."""
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))


def padded(rows: Sequence[Tensor]) -> Tensor:
    """``[B, N, ...]`` with zeros behind shorter rows; a copy in any case, which whoever gets it may change."""
    return torch.stack(list(rows)) if len(rows) == 1 else pad_sequence(list(rows), batch_first=True)


def rows_of(padded: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """The first ``lengths[i]`` entries of each row of ``[B, N, ...]``, in a few calls whatever B."""
    if not lengths:
        return []
    width = max(lengths)
    if min(lengths) == width:
        return list((padded if width == padded.shape[1] else padded[:, :width]).unbind(0))
    places = np.concatenate([row * padded.shape[1] + np.arange(n) for row, n in enumerate(lengths)])
    return list(torch.split(padded.flatten(0, 1).index_select(0, upload(places, padded.device)), list(lengths)))
