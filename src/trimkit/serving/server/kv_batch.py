"""Rows of different lengths in one KV cache: they join and leave between two steps of the language model.

A row stands at the right end of the cache; in front of a shorter one are masked columns. Its positions are passed to the model,
so that where it stands changes nothing of what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimkit.attach.cache_argument import cache_name

__all__ = ["KVBatch"]


class KVBatch:
    """The cache of several replies, one row each.

    Args:
        model: runs the steps. With one row, its cache is used as it is, of whatever kind.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache_name = cache_name(model.forward) or "past_key_values"
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=model.device)  # [B, T]
        self._positions = torch.zeros(1, 0, dtype=torch.long, device=model.device)  # [axes, B], of the next token

    def __len__(self) -> int:
        return int(self._mask.shape[0])

    def join(self, cache: Any, length: int, position: Tensor) -> None:
        """Add a row as the last one.

        Args:
            cache: of the row alone, filled with ``length`` columns.
            length: its prompt.
            position: ``[axes]`` of the next token; one axis where positions are 1-D.
        """
        mask = torch.ones(1, length, dtype=torch.long, device=self._mask.device)
        position = position.to(self._mask.device)
        if not len(self):
            self._cache, self._mask, self._positions = cache, mask, position.unsqueeze(1)
            return
        width = max(self._mask.shape[1], length)
        self._cache = _joined([_layers(self._cache, width), _layers(cache, width)])
        self._mask = torch.cat([_padded(self._mask, width, dim=1), _padded(mask, width, dim=1)])
        axes = max(len(self._positions), len(position))
        parts = [each.expand(axes, -1) for each in (self._positions, position.unsqueeze(1))]
        self._positions = torch.cat(parts, dim=1)

    def only_row(self) -> tuple[Any, int, Tensor]:
        """The cache of the one row there is, its columns, and ``[axes]`` of its next position: what ``join`` takes."""
        return self._cache, int(self._mask.shape[1]), self._positions[:, 0]

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows, in this order, and none of the columns that all of them mask."""
        if len(rows) == len(self):
            return
        if not rows:
            self.clear()
            return
        index = torch.tensor(list(rows), device=self._mask.device)
        self._mask = self._mask.index_select(0, index)
        self._positions = self._positions.index_select(1, index)
        first = int(self._mask.any(dim=0).nonzero()[0])
        self._mask = self._mask[:, first:].contiguous()
        kept = [
            tuple(each.index_select(0, index.to(each.device))[:, :, first:] for each in layer)
            for layer in _layers(self._cache, 0)
        ]
        self._cache = _joined([kept])

    def clear(self) -> None:
        """Forget all rows."""
        self._cache = None
        self._mask, self._positions = self._mask[:0, :0], self._positions[:1, :0]

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Run one token of every row; the logits ``[B, V]`` of what follows."""
        ids = torch.tensor(list(tokens), device=self._mask.device).unsqueeze(1)
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        axes = len(self._positions)
        positions = self._positions.unsqueeze(-1) if axes > 1 else self._positions[0].unsqueeze(-1)
        out = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            use_cache=True,
            **{self._cache_name: self._cache},
        )
        self._positions = self._positions + 1
        return out.logits[:, -1]  # type: ignore[no-any-return]


Layers = list[tuple[Tensor, ...]]


def _layers(cache: Any, width: int) -> Layers:
    """Keys and values ``[B, heads, T, D]`` of every layer, padded in front to ``width`` columns."""
    return [tuple(_padded(each, width, dim=2) for each in (layer.keys, layer.values)) for layer in cache.layers]


def _padded(values: Tensor, width: int, dim: int) -> Tensor:
    short = width - values.shape[dim]
    if short <= 0:
        return values
    shape = list(values.shape)
    shape[dim] = short
    return torch.cat([values.new_zeros(shape), values], dim=dim)


def _joined(parts: Sequence[Layers]) -> Any:
    """One cache of all rows, in order."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for number, layers in enumerate(zip(*parts, strict=True)):
        keys, values = (torch.cat([layer[i] for layer in layers]).contiguous() for i in (0, 1))
        cache.update(keys, values, number)
    return cache
