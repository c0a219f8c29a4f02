"""What ``generate`` needs around a shortened prompt: lengths that count it, a streamer and an output that show it whole."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

__all__ = ["infer_attention_mask", "restore_prompt", "shift_lengths", "wrap_streamer"]


def infer_attention_mask(model: Any, generation_config: Any, input_ids: Tensor) -> Tensor | None:
    """The mask that ``generate`` would infer: padding tokens, where they cannot be mistaken for the end; else None."""
    config = generation_config if generation_config is not None else model.generation_config
    pad, eos = config.pad_token_id, config.eos_token_id
    ends = eos if isinstance(eos, (list, tuple)) else [eos]
    if pad is None or pad in ends or not bool((input_ids == pad).any()):
        return None
    return input_ids.ne(pad).long()


def shift_lengths(defaults: Any, kwargs: dict[str, Any], dropped: int) -> None:
    """Take the dropped tokens off ``max_length`` and ``min_length``, which count the prompt; changes ``kwargs``."""
    config = kwargs.get("generation_config")
    for name, counterpart in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if kwargs.get(counterpart) is not None or getattr(config, counterpart, None) is not None:
            continue
        if kwargs.get(name) is not None:
            kwargs[name] = max(kwargs[name] - dropped, 0)
        elif getattr(config, name, None) is not None:
            config = copy.deepcopy(config)
            setattr(config, name, max(getattr(config, name) - dropped, 0))
            kwargs["generation_config"] = config
        elif config is None and getattr(defaults, name, None) is not None:
            kwargs[name] = max(getattr(defaults, name) - dropped, 0)


def restore_prompt(out: Any, input_ids: Tensor, shrunk_length: int) -> Any:
    """Put the prompt as given back in front of what was generated, so that ``out[:, input_ids.shape[1]:]`` is the answer.

    Args:
        out: ``[B * n, L' + g]``, or a generate output whose ``sequences`` are.
        input_ids: ``[B, L]``.
        shrunk_length: L'.
    """
    sequences = out if isinstance(out, Tensor) else out.sequences
    prompts = input_ids.to(sequences.device).repeat_interleave(len(sequences) // len(input_ids), dim=0)
    whole = torch.cat([prompts, sequences[:, shrunk_length:]], dim=1)
    if isinstance(out, Tensor):
        return whole
    out.sequences = whole
    return out


def wrap_streamer(streamer: Any, input_ids: Tensor) -> Any:
    """A streamer that is shown the prompt as given instead of the shortened one."""
    from transformers.generation.streamers import BaseStreamer

    class WholePrompt(BaseStreamer):
        def __init__(self) -> None:
            self.prompt: Tensor | None = input_ids.cpu()

        def put(self, value: Tensor) -> None:
            value, self.prompt = (value, None) if self.prompt is None else (self.prompt, None)
            streamer.put(value)

        def end(self) -> None:
            streamer.end()

    return WholePrompt()
