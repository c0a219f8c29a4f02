"""What ``generate`` needs around a shortened prompt: lengths that count it; callables and an output that see it whole."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

__all__ = ["count_whole_prompt", "infer_attention_mask", "one_sequence_a_row", "restore_prompt", "setting_of"]


def infer_attention_mask(defaults: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """The mask that ``generate`` would infer: padding tokens, where they cannot be mistaken for the end; else None."""
    input_ids: Tensor = kwargs["input_ids"]
    pad, eos = (setting_of(defaults, kwargs, name) for name in ("pad_token_id", "eos_token_id"))
    ends = eos if isinstance(eos, (list, tuple)) else [eos]
    if pad is None or pad in ends or not bool((input_ids == pad).any()):
        return None
    return input_ids.ne(pad).long()


def one_sequence_a_row(defaults: Any, kwargs: dict[str, Any]) -> bool:
    """Whether neither beams nor several returned sequences multiply the rows."""
    return all((setting_of(defaults, kwargs, name) or 1) == 1 for name in ("num_beams", "num_return_sequences"))


def shift_lengths(defaults: Any, kwargs: dict[str, Any], dropped: int) -> None:
    """Take the dropped tokens off ``max_length`` and ``min_length``, which count the prompt; changes ``kwargs``."""
    for name, counterpart in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        value = setting_of(defaults, kwargs, name)
        if value is None or setting_of(defaults, kwargs, counterpart) is not None:
            continue
        shifted, config = max(value - dropped, 0), kwargs.get("generation_config")
        if config is None or kwargs.get(name) is not None:
            kwargs[name] = shifted
        else:
            kwargs["generation_config"] = copy.deepcopy(config)
            setattr(kwargs["generation_config"], name, shifted)


def setting_of(defaults: Any, kwargs: dict[str, Any], name: str) -> Any:
    """What ``generate`` takes: its keyword, else the config passed, else the model's default."""
    for value in (kwargs.get(name), getattr(kwargs.get("generation_config"), name, None)):
        if value is not None:
            return value
    return getattr(defaults, name, None)


def restore_prompt(out: Any, input_ids: Tensor, shrunk_length: int) -> Any:
    """Put the prompt as given back in front of what was generated, so that ``out[:, input_ids.shape[1]:]`` is the answer.

    Args:
        out: ``[B * n, L' + g]``, or a generate output whose ``sequences`` are.
        input_ids: ``[B, L]``.
        shrunk_length: L'.
    """
    prompt = _WholePrompt(input_ids, shrunk_length)
    if isinstance(out, Tensor):
        return prompt(out)
    out.sequences = prompt(out.sequences)
    return out


def count_whole_prompt(config: Any, kwargs: dict[str, Any], input_ids: Tensor, shrunk_length: int) -> None:
    """Let lengths count, and what the user passes see, the prompt ``[B, L]`` as given; changes ``kwargs``."""
    shift_lengths(config, kwargs, input_ids.shape[1] - shrunk_length)
    show_whole_prompt(kwargs, input_ids, shrunk_length)


def show_whole_prompt(kwargs: dict[str, Any], input_ids: Tensor, shrunk_length: int) -> None:
    """Let the user's streamer, criteria and processors see the prompt as given; changes ``kwargs``."""
    prompt = _WholePrompt(input_ids, shrunk_length)
    if kwargs.get("streamer") is not None:
        kwargs["streamer"] = _streamer(kwargs["streamer"], input_ids)
    if kwargs.get("stopping_criteria"):
        kwargs["stopping_criteria"] = type(kwargs["stopping_criteria"])(
            _criterion(each, prompt) for each in kwargs["stopping_criteria"]
        )
    if kwargs.get("logits_processor"):
        kwargs["logits_processor"] = type(kwargs["logits_processor"])(
            _processor(each, prompt) for each in kwargs["logits_processor"]
        )
    if kwargs.get("prefix_allowed_tokens_fn") is not None:
        allowed = kwargs["prefix_allowed_tokens_fn"]
        kwargs["prefix_allowed_tokens_fn"] = lambda row, ids: allowed(row, prompt.of_row(row, ids))


# What reads scores, the last tokens or which tokens there are, and so finds the same in a shortened prompt.
_PROCESSORS = frozenset(
    f"{name}LogitsWarper" for name in ("Temperature", "TopP", "TopK", "TopH", "MinP", "Typical", "Epsilon", "Eta")
) | frozenset(
    f"{name}LogitsProcessor"
    for name in ("RepetitionPenalty", "NoRepeatNGram", "SequenceBias", "NoBadWords", "InfNanRemove", "SuppressTokens")
)
_CRITERIA = frozenset({"EosTokenCriteria", "MaxTimeCriteria", "StopStringCriteria"})


class _WholePrompt:
    """Swaps the shortened prompt at the head of sequences for the one given."""

    def __init__(self, input_ids: Tensor, shrunk_length: int) -> None:
        self._ids, self._length = input_ids, shrunk_length

    @property
    def gone(self) -> int:
        """Columns that the shortened prompt lacks."""
        return int(self._ids.shape[1]) - self._length

    def __call__(self, sequences: Tensor) -> Tensor:
        prompts, times = self._ids.to(sequences.device), len(sequences) // len(self._ids)
        prompts = prompts if times == 1 else prompts.repeat_interleave(times, dim=0)
        return torch.cat([prompts, sequences[:, self._length :]], dim=1)

    def of_row(self, row: int, sequence: Tensor) -> Tensor:
        return torch.cat([self._ids[row].to(sequence.device), sequence[self._length :]])


def _criterion(inner: Any, prompt: _WholePrompt) -> Any:
    from transformers import MaxLengthCriteria, StoppingCriteria

    if type(inner) is MaxLengthCriteria:
        shorter = copy.copy(inner)
        shorter.max_length = inner.max_length - prompt.gone
        return shorter
    if _overrides(inner, _CRITERIA):
        return inner

    class OnWholePrompt(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            return inner(prompt(input_ids), scores, **kwargs)

    return OnWholePrompt()


def _overrides(inner: Any, names: frozenset[str]) -> bool:
    """Whether it is transformers' own: ``generate`` then leaves out one that it would make of the same type."""
    return type(inner).__module__.startswith("transformers.generation.") and type(inner).__name__ in names


def _processor(inner: Any, prompt: _WholePrompt) -> Any:
    from transformers import LogitsProcessor

    if _overrides(inner, _PROCESSORS) and getattr(inner, "prompt_ignore_length", None) is None:
        return inner

    class OnWholePrompt(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return inner(prompt(input_ids), scores)

    return OnWholePrompt()


def _streamer(streamer: Any, input_ids: Tensor) -> Any:
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
