"""What lmms-eval gives as text and mappings, as ``generate`` and ``trimkit.reduce`` take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimkit.errors import ConfigError
from trimkit.eval.rows import Reply
from trimkit.io.text import parse_json

__all__ = ["cut_at", "fallback_said", "generation_of", "positive"]

_NEW_TOKENS = 1024  # where a task names no limit; what lmms-eval's own LLaVA takes
_PASSED_ON = ("num_beams", "repetition_penalty", "length_penalty", "min_new_tokens")
_SAMPLING = ("temperature", "top_p", "top_k")


def generation_of(wanted: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A task's generation_kwargs as ``generate`` takes them, and the strings that end an answer."""
    until = wanted.get("until") or []
    found = {"max_new_tokens": int(wanted.get("max_new_tokens") or wanted.get("max_gen_toks") or _NEW_TOKENS)}
    found |= {name: wanted[name] for name in _PASSED_ON if wanted.get(name) is not None}
    warm = float(wanted.get("temperature") or 0) > 0
    sample = warm and bool(wanted.get("do_sample", True))
    if sample:
        found |= {name: wanted[name] for name in _SAMPLING if wanted.get(name) is not None}
    return {**found, "do_sample": sample}, [until] if isinstance(until, str) else [str(each) for each in until]


def cut_at(reply: Reply, until: Sequence[str]) -> Reply:
    """The answer up to the first string that ends it."""
    ends = [place for place in (reply.text.find(each) for each in until if each) if place >= 0]
    if not ends:
        return reply
    return Reply(reply.text[: min(ends)].strip(), reply.tokens_full, reply.tokens_kept, reply.skipped)


def fallback_said(said: Any) -> Any:
    """What lmms-eval's command line gives: a word, or JSON.

    Raises:
        ConfigError: it begins as JSON and is none.
    """
    if not (isinstance(said, str) and said.startswith("{")):
        return said
    try:
        return parse_json(said)
    except ValueError:
        raise ConfigError(f'fallback {said!r} is no JSON: give for example {{"threshold": 0.5}}') from None


def positive(batch_size: int | str) -> int:
    """A number of rows.

    Raises:
        ConfigError: it is none.
    """
    try:
        number = int(batch_size)
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"batch_size {batch_size!r} is not a number of rows: give 1 or more")
    return number
