"""What single tokens attend to in one layer, asked of the layer itself, whatever attention it runs.

The layer is given unit vectors as values: what its heads then put out are their attention weights. So rotary embedding, grouped
heads, norms of queries and keys, scaling and masks are the layer's own, and only the rows asked for are ever computed.
"""

from __future__ import annotations

import contextlib
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

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        config = self._attention.config
        return int(getattr(self._attention, "head_dim", 0) or config.hidden_size // config.num_attention_heads)

    @property
    def theta(self) -> float:
        """Base of the rotary embedding; 10000 where the config names none."""
        config = self._attention.config
        named = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
        return float(named or getattr(config, "rope_theta", None) or 10000.0)

    def record(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Take note of a call; returns the keyword arguments to make it with."""
        self._kwargs = {**({"hidden_states": args[0]} if args else {}), **kwargs}
        self._recorder = _CacheRecorder(cache_of(kwargs))
        return self._with_cache(kwargs, self._recorder)

    def peek(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record what ``layer``, whose attention this is, would call it with. The layer is run as far as its keys."""
        thread = threading.get_ident()

        def record(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            return (given, self.record(given, named)) if threading.get_ident() == thread else None

        with REGISTERING:
            handle = self._attention.register_forward_pre_hook(record, with_kwargs=True)
        try:
            with torch.no_grad(), contextlib.suppress(_HaveKeysError):
                layer.forward(*args, **with_cache(cache_name(layer.forward), kwargs, _StoppingCache()))
        finally:
            handle.remove()

    def keys(self, length: int, every: int) -> Tensor:
        """``[B, heads, length, K]`` rotated keys of the call on record; of rows that are copies, every so many-th.

        Raises:
            UnsupportedError: the module did not give its keys to a cache.
        """
        if self._recorder is None or self._recorder.keys is None:
            raise self._no_keys()
        return self._recorder.keys[::every, :, :length]

    def _no_keys(self) -> UnsupportedError:
        return UnsupportedError(
            f"{type(self._attention).__name__} keeps no keys and values where they are looked for: use a method that drops "
            "tokens before the language model"
        )

    @torch.no_grad()
    def attention_to(self, columns: Tensor, queries: Tensor, rows: Tensor, length: int) -> Tensor:
        """Weights of the attention from column ``queries[i]`` to ``columns[i]``, in sequence ``rows[i]`` of the recorded call.

        Args:
            columns: ``[F, N]`` int64.
            queries: ``[F]`` int64; no column behind it is attended to.
            rows: ``[F]`` int64.
            length: columns of the prompts; what the layer holds behind them is not looked at.

        Returns:
            ``[F, heads, N]`` float32.

        Raises:
            UnsupportedError: the module did not give its keys to a cache.
        """
        recorder = self._recorder
        if recorder is None or recorder.keys is None or recorder.values is None:
            raise self._no_keys()
        device = recorder.keys.device
        rows, queries, columns = rows.to(device), queries.to(device), columns.to(device)
        keys = recorder.keys[rows, :, :length]
        places = torch.arange(length, device=device).expand(len(rows), -1)
        visible = places <= queries.unsqueeze(1)
        at = Columns(places, visible, not bool(visible.all()), queries.unsqueeze(1), 0)
        kwargs = self._one_row(self._kwargs, at, rows)
        width = recorder.values.shape[-1]
        parts = []
        for part in torch.split(columns, width, dim=1):
            units = keys.new_zeros(*keys.shape[:3], width)
            index = part[:, None, None, :].expand(-1, keys.shape[1], -1, -1)
            units[..., : part.shape[1]].scatter_(2, index, 1.0)
            heads = self._heads(self._with_cache(kwargs, _FixedCache(keys, units)))
            heads = heads.view(len(columns), -1, width)
            parts.append(heads[..., : part.shape[1]].float())
        return torch.cat(parts, dim=2)

    def forget(self) -> None:
        """Let the recorded call go."""
        self._kwargs, self._recorder = {}, None

    def _with_cache(self, kwargs: dict[str, Any], cache: Any) -> dict[str, Any]:
        """A call's arguments with another cache."""
        return with_cache(self._cache_name, kwargs, cache)

    def _one_row(self, kwargs: dict[str, Any], at: Columns, rows: Tensor) -> dict[str, Any]:
        """The arguments of the recorded call for one query in each of ``rows``."""
        out = dict(kwargs)
        out["hidden_states"] = take(kwargs["hidden_states"].index_select(0, rows), at.queries)
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and len(mask) > 1:
            mask = mask.index_select(0, rows)
        out["attention_mask"] = cut_mask(mask, at, self._attention.config._attn_implementation)
        if (embeddings := kwargs.get("position_embeddings")) is not None:
            out["position_embeddings"] = tuple(take(_rows(each, -3, rows), at.queries) for each in embeddings)
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


def _rows(tensor: Tensor, dim: int, rows: Tensor) -> Tensor:
    """The rows asked for; a single row serves all."""
    return tensor if tensor.shape[dim] == 1 else tensor.index_select(dim, rows)


class _CacheRecorder:
    """Stands before a cache (or none) for one call, and keeps what the layer attends to."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if isinstance(self._cache, _StoppingCache):
            self.keys, self.values = keys, values
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


class _HaveKeysError(Exception):
    """A layer has got as far as its keys."""


class _StoppingCache:
    """A cache that ends the call which updates it."""

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise _HaveKeysError
