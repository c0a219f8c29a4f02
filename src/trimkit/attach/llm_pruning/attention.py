"""What the last prompt token attends to in one layer, asked of the layer itself, whatever attention it runs.

The layer is given unit vectors as values: what its heads then put out are their attention weights. So rotary embedding, grouped
heads, norms of queries and keys, scaling and masks are the layer's own, and only one row of attention is ever computed.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from trimkit.attach.cache_argument import cache_name, cache_of, with_cache
from trimkit.attach.llm_pruning.layer_layout import Columns, cut_mask, take
from trimkit.errors import UnsupportedError

__all__ = ["REGISTERING", "AttentionProbe", "output_projection"]

REGISTERING = threading.Lock()  # torch numbers hooks without one: two threads could get one number
_PROJECTIONS = ("o_proj", "out_proj", "dense")


def output_projection(attention: Any) -> Any:
    """What an attention module's heads are fed to, or None where no name for it is known."""
    return next((getattr(attention, name) for name in _PROJECTIONS if hasattr(attention, name)), None)


class AttentionProbe:
    """Records what one attention module is called with.

    Args:
        attention: the module, with ``output_projection``.
    """

    def __init__(self, attention: Any) -> None:
        self._attention = attention
        self._cache_name = cache_name(attention.forward)
        self._kwargs: dict[str, Any] = {}
        self._recorder: _CacheRecorder | None = None

    def record(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Take note of a call; returns the keyword arguments to make it with."""
        self._kwargs = {**({"hidden_states": args[0]} if args else {}), **kwargs}
        self._recorder = _CacheRecorder(cache_of(kwargs))
        return self._with_cache(kwargs, self._recorder)

    @torch.no_grad()
    def attention_to(self, columns: Tensor, last: Tensor, length: int, *, whole: bool) -> Tensor:
        """Weights of the attention from column ``last`` to ``columns``, mean over heads.

        Args:
            columns: ``[B, N]`` int64.
            last: ``[B]`` int64; no column behind it is attended to.
            length: columns of the prompts; of more rows than B, neighbours are copies of one prompt.
            whole: ``last`` is the last column of every prompt.

        Returns:
            ``[B, N]`` float32.

        Raises:
            UnsupportedError: the module did not give its keys to a cache.
        """
        recorder, self._recorder = self._recorder, None
        kwargs, self._kwargs = self._kwargs, {}
        if recorder is None or recorder.keys is None or recorder.values is None:
            raise UnsupportedError(
                f"{type(self._attention).__name__} keeps no keys and values where they are looked for: use a method that drops "
                "tokens before the language model"
            )
        every = len(recorder.keys) // len(columns)
        keys = recorder.keys[::every, :, :length]
        device = keys.device
        last, columns = last.to(device), columns.to(device)
        places = torch.arange(length, device=device).expand(len(columns), -1)
        visible = places <= last.unsqueeze(1)
        at = Columns(places, visible, not whole, last.unsqueeze(1), 0)
        kwargs = self._one_row(kwargs, at, every)
        width = recorder.values.shape[-1]
        parts = []
        for part in torch.split(columns, width, dim=1):
            units = keys.new_zeros(*keys.shape[:3], width)
            index = part[:, None, None, :].expand(-1, keys.shape[1], -1, -1)
            units[..., : part.shape[1]].scatter_(2, index, 1.0)
            heads = self._heads(self._with_cache(kwargs, _FixedCache(keys, units)))
            heads = heads.view(len(columns), -1, width)
            parts.append(heads[..., : part.shape[1]].float().mean(dim=1))
        return torch.cat(parts, dim=1)

    def _with_cache(self, kwargs: dict[str, Any], cache: Any) -> dict[str, Any]:
        """A call's arguments with another cache."""
        return with_cache(self._cache_name, kwargs, cache)

    def _one_row(self, kwargs: dict[str, Any], at: Columns, every: int) -> dict[str, Any]:
        """The arguments of the recorded call for the last tokens alone."""
        out = dict(kwargs)
        out["hidden_states"] = take(kwargs["hidden_states"][::every], at.queries)
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and len(mask) > len(at.keys):
            mask = mask[::every]
        out["attention_mask"] = cut_mask(mask, at, self._attention.config._attn_implementation)
        if (embeddings := kwargs.get("position_embeddings")) is not None:
            out["position_embeddings"] = tuple(take(_rows(each, -3, every), at.queries) for each in embeddings)
        out.pop("position_ids", None)  # only read to tell packed sequences apart
        return out

    def _heads(self, kwargs: dict[str, Any]) -> Tensor:
        """``[B, 1, heads * width]``, what the output projection is given."""
        caught: list[Tensor] = []
        thread = threading.get_ident()

        def catch(module: Any, args: tuple[Any, ...]) -> None:
            if threading.get_ident() == thread:
                caught.append(args[0])

        with REGISTERING:
            handle = output_projection(self._attention).register_forward_pre_hook(catch)
        try:
            self._attention.forward(**kwargs)  # not called: whoever collects outputs is to see one pass
        finally:
            handle.remove()
        return caught[-1]


def _rows(tensor: Tensor, dim: int, every: int) -> Tensor:
    """Every so many-th row; a single row serves all."""
    return tensor if tensor.shape[dim] == 1 else tensor.movedim(dim, 0)[::every].movedim(0, dim)


class _CacheRecorder:
    """Stands before a cache (or none) for one call, and keeps what the layer attends to."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self._cache is not None:
            keys, values = self._cache.update(keys, values, *args, **kwargs)
        self.keys, self.values = keys, values
        return keys, values

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


class _FixedCache:
    """A cache that answers every update with the same keys and values."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._pair = keys, values

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self._pair
