"""Compiled generation of reduced prompts: bucket lengths, a static cache that is used again, and a compiled language model.

What a compiler gains is lost where every picture has a length of its own: each new length is compiled anew. Here a prompt comes
in one of a few lengths (``buckets``), and the cache has one length whatever the prompt's, so that prefill is compiled once a
bucket and decoding once. Choosing tokens, the vision tower and the projector stay as they are.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

import torch

from trimkit.attach.cache_argument import cache_name
from trimkit.attach.shadow import Shadow
from trimkit.errors import ConfigError, InputError, UnsupportedError

__all__ = ["CompiledGeneration"]

_OTHER_CODE = 8
"""Recompilations that torch allows by default, left to code that is not ours."""


class _Attached(Protocol):
    model: Any

    @property
    def buckets(self) -> tuple[int, ...]: ...

    @property
    def prunes_llm(self) -> bool: ...


class CompiledGeneration:
    """``generate`` of an attached model with its language model compiled; made by ``Attachment.compiled``.

    A context manager; ``close()`` puts the language model's own ``forward`` back and frees the cache. Calls go one at a time:
    they share a cache.

    Args:
        attachment: of the model, with ``buckets``.
        max_new_tokens: the most that a call may generate; sets the length of the cache.
        backend, mode: as ``torch.compile`` takes them. ``mode`` None is ``reduce-overhead`` (CUDA graphs) on a GPU where the
            backend has modes.

    Raises:
        ConfigError: there are no buckets, or ``max_new_tokens`` is below 1.
        UnsupportedError: the method drops tokens inside the language model, where layers then differ in length; or the model
            takes no static cache.
    """

    def __init__(
        self, attachment: _Attached, *, max_new_tokens: int = 128, backend: Any = "inductor", mode: str | None = None
    ) -> None:
        if not attachment.buckets:
            raise ConfigError(
                "compiled generation needs bucket lengths: attach with buckets=(128, 256, 640) or the like"
            )
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={max_new_tokens} is below 1: give the most that a call generates")
        if attachment.prunes_llm:
            raise UnsupportedError(
                "this method drops tokens inside the language model, which a compiled one does not allow: choose another"
            )
        self._model = attachment.model
        if not getattr(self._model, "_can_compile_fullgraph", True):
            raise UnsupportedError(
                f"{type(self._model).__name__} cannot be compiled with a static cache: call generate"
            )
        self._max_new_tokens = max_new_tokens
        self._longest = max(attachment.buckets)
        self._limit = _OTHER_CODE + len(attachment.buckets) + 1  # for each batch size
        self._caches: dict[int, Any] = {}
        decoder = self._model.get_decoder()
        if mode is None and backend == "inductor" and self._model.device.type == "cuda":
            mode = "reduce-overhead"
        self._compiled = torch.compile(decoder.forward, backend=backend, mode=mode, dynamic=False)
        self._shadow: Shadow | None = Shadow(decoder, "forward", self._forward)

    @torch.no_grad()
    def generate(self, **inputs: Any) -> Any:
        """Stock ``generate``, greedy or sampling, with the arguments that it takes; one sequence a row.

        Args:
            **inputs: what the attached model's ``generate`` would be called with, ``input_ids`` ``[B, L]`` among it.

        Raises:
            ConfigError: it is closed, or more new tokens are asked for than the cache has room for.
            InputError: a cache is passed, beams are asked for, or the prompt is longer than the largest bucket.
        """
        if self._shadow is None:
            raise ConfigError("this compiled generation is closed: make a new one")
        self._check(inputs)
        ids = inputs["input_ids"]
        cache = self._cache(len(ids))
        cache.reset()
        limit = self._limit * len(self._caches)
        # Found by name where it differs between versions of torch.
        key = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
        own: dict[str, Any] = {str(cache_name(self._model.forward)): cache, "disable_compile": True}
        inputs.setdefault("max_new_tokens", self._max_new_tokens)
        with torch._dynamo.config.patch({key: max(limit, getattr(torch._dynamo.config, key))}):
            return self._model.generate(**inputs, **own)

    def close(self) -> None:
        """Leave the language model as it was. Harmless when closed."""
        if self._shadow is not None:
            self._shadow.remove()
            self._shadow = None
            self._caches.clear()

    def __enter__(self) -> CompiledGeneration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forward(self, _: Any, *args: Any, **kwargs: Any) -> Any:
        """What stands in for the language model's ``forward``; refuses a prompt that would leave the cache no room."""
        embeds = kwargs.get("inputs_embeds")
        if embeds is not None and embeds.shape[1] > self._longest:
            raise InputError(
                f"a reduced prompt of {embeds.shape[1]} tokens is longer than the largest bucket, {self._longest}: "
                "attach with a larger one"
            )
        if embeds is not None and kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = self._causal(embeds)
        compiled: Any = self._compiled
        return compiled(*args, **kwargs)

    def _causal(self, embeds: Any) -> Any:
        """The mask ``[B, 1, L, cache]`` that transformers leaves out where a prompt fills its bucket: to the compiler, with and
        without a mask are two lengths. None where attention takes no such mask.
        """
        if self._model.config.get_text_config(decoder=True)._attn_implementation != "sdpa":
            return None
        rows, length = embeds.shape[:2]
        whole = torch.ones(length, self._longest + self._max_new_tokens, dtype=torch.bool, device=embeds.device)
        return whole.tril().expand(rows, 1, -1, -1).contiguous()

    def _check(self, inputs: dict[str, Any]) -> None:
        wanted = inputs.get("max_new_tokens")
        if wanted is not None and wanted > self._max_new_tokens:
            raise ConfigError(
                f"max_new_tokens={wanted} is more than the {self._max_new_tokens} that the cache has room for: "
                f"give compiled(max_new_tokens={wanted})"
            )
        if inputs.get("input_ids") is None:
            raise InputError("compiled generation finds the rows in input_ids: pass them")
        if any(inputs.get(name) is not None for name in ("past_key_values", "cache", "cache_implementation")):
            raise InputError("compiled generation brings its own cache: leave yours out, or call the model's generate")
        if (inputs.get("num_beams") or 1) > 1 or (inputs.get("num_return_sequences") or 1) > 1:
            raise InputError("compiled generation gives one sequence a row: call the model's generate for beams")

    def _cache(self, batch: int) -> Any:
        """The static cache of calls with so many rows; its tensors are made here, outside of what is compiled."""
        if batch not in self._caches:
            from transformers import StaticCache

            config = self._model.config.get_text_config(decoder=True)
            cache = StaticCache(config=config, max_cache_len=self._longest + self._max_new_tokens)
            heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
            width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            device = self._model.get_input_embeddings().weight.device
            cache.early_initialization(batch, heads, width, dtype=self._model.dtype, device=device)
            self._caches[batch] = cache
        return self._caches[batch]
