"""Before the server opens: one request of each kind goes through, and it is seen whether rows can share a KV cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimkit.errors import UnsupportedError
from trimkit.io.text import one_line
from trimkit.serving.server.errors import ApiError
from trimkit.serving.server.jobs import Job
from trimkit.serving.server.kv_batch import KVBatch
from trimkit.serving.server.prefill import Prefill, ReducedPrompt
from trimkit.serving.server.sampling import Sampling
from trimkit.serving.server.schema import ChatRequest
from trimkit.serving.server.service import Service

__all__ = ["warm_up"]

_SIDE = 224
_APART = 0.1  # of the logits' spread: rounding is far below, a wrong mask or position far above

_log = logging.getLogger(__name__)


def warm_up(model: Any, service: Service) -> bool:
    """Run a text and a picture with a question, together, and compare with stock ``generate``.

    Returns:
        Whether replies share a KV cache. Where the model's cache is not made of keys and values alone, or what comes out
        differs, they run side by side instead, each step one row.

    Raises:
        TrimkitError: this model cannot be reduced, or its steps give something else than its own ``generate``.
    """
    prefill = service.prefill
    with torch.no_grad():
        prompts = [prefill.reduce(_tried(model, service, number)) for number in (0, 1)]
        right = [prefill.stock_logits(prompt) for prompt in prompts]
        for merges in (True, False):
            prefill.merges = merges
            groups = [prompts] if merges else [[prompt] for prompt in prompts]
            try:
                found = torch.cat([_second(model, prefill, group) for group in groups])
            except Exception as error:  # caches of other kinds fail in ways of their own
                _log.debug("a step failed", exc_info=error)
                continue
            if all(_close(one, other) for one, other in zip(found, right, strict=True)):
                return merges
    raise UnsupportedError(
        f"{type(model).__name__} gives other tokens when it is run step by step from outside: use vLLM, or trimkit.attach"
    )


def _second(model: Any, prefill: Prefill, prompts: Sequence[ReducedPrompt]) -> Tensor:
    """Logits ``[B, V]`` behind the likeliest first tokens."""
    batch = KVBatch(model)
    tokens = []
    for prompt in prompts:
        filled = prefill.run(prompt)
        batch.join(filled.cache, len(prompt.ids), filled.position)
        tokens.append(int(filled.logits.argmax()))
    return batch.step(tokens)


def _tried(model: Any, service: Service, number: int) -> Job:
    """A job as requests are turned into one.

    Raises:
        UnsupportedError: that does not work with this checkpoint, which is broken in a way of its own.
    """
    try:
        return _job(service, number)
    except (ApiError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        cause = one_line(str(error))[:160] or type(error).__name__
        raise UnsupportedError(
            f"{type(model).__name__} of this checkpoint cannot be asked ({cause}): check its config and its processor"
        ) from error


def _job(service: Service, number: int) -> Job:
    from PIL import Image

    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is in the picture?" if number else "What is it?"}]
    if number:
        parts.insert(0, {"type": "image_url", "image_url": "data:"})
    content = {"model": "", "messages": [{"role": "user", "content": parts}]}
    pictures = [Image.linear_gradient("L").resize((_SIDE, _SIDE)).convert("RGB")] if number else []
    inputs = service.prompts.build(ChatRequest.model_validate(content).messages, pictures)
    return Job(inputs, len(pictures), service.method, None, "refresh", Sampling(), (), 1, lambda event: None)


def _close(one: Tensor, other: Tensor) -> bool:
    one, other = one.float(), other.float()
    return bool((one - other).abs().max() <= _APART * one.std().clamp(min=1e-6))
