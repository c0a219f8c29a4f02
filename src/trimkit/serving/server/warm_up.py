"""Before the server opens: one request of each kind goes through, and it is seen whether rows can share a KV cache."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from trimkit.serving.server.jobs import Job
from trimkit.serving.server.kv_batch import KVBatch
from trimkit.serving.server.sampling import Sampling
from trimkit.serving.server.schema import ChatRequest
from trimkit.serving.server.service import Service

__all__ = ["warm_up"]

_SIDE = 224
_APART = 0.1  # of the logits' spread: rounding is far below, a wrong mask or position far above

_log = logging.getLogger(__name__)


def warm_up(model: Any, service: Service) -> bool:
    """Run a picture and two texts, alone and together.

    Returns:
        Whether replies share a KV cache. Where the model's cache is not made of keys and values alone, or what comes out
        differs, they run side by side instead, each step one row.

    Raises:
        TrimkitError: this model cannot be reduced or run.
    """
    with torch.no_grad():
        alone = [_second(model, service, [which]) for which in (0, 1)]
        try:
            together = _second(model, service, [0, 1])
            same = all(_close(one[0], both) for one, both in zip(alone, together, strict=True))
        except Exception as error:  # caches of other kinds fail in ways of their own
            _log.debug("rows cannot share a KV cache", exc_info=error)
            same = False
    service.prefill.merges = same
    return same


def _second(model: Any, service: Service, which: list[int]) -> Tensor:
    """Logits ``[B, V]`` behind the first token of some of two conversations, one of them with a picture."""
    batch = KVBatch(model)
    tokens = []
    for number in which:
        prompt = service.prefill.reduce(_job(service, number))
        filled = service.prefill.run(prompt)
        batch.join(filled.cache, len(prompt.ids), filled.position)
        tokens.append(int(filled.logits.argmax()))
    return batch.step(tokens).float()


def _job(service: Service, number: int) -> Job:
    from PIL import Image

    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is in the picture?" if number else "What is it?"}]
    if number:
        parts.insert(0, {"type": "image_url", "image_url": "data:"})
    content = {"model": "", "messages": [{"role": "user", "content": parts}]}
    pictures = [Image.linear_gradient("L").resize((_SIDE, _SIDE)).convert("RGB")] if number else []
    inputs = service.prompts.build(ChatRequest.model_validate(content).messages, pictures)
    return Job(inputs, len(pictures), service.method, None, Sampling(), (), 1, lambda event: None)


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= _APART * one.std().clamp(min=1e-6))
