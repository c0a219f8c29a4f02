"""Questions about pictures where the user has none: the model asks them itself, or names things that templates ask about."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from trimkit.ask import build_inputs, decode
from trimkit.calibration import GENERIC_QUESTIONS
from trimkit.io.text import is_text

__all__ = ["asked_by_model"]

_REQUEST = "Write five short questions about details of this picture, one a line."
_NAME = "What is in the picture?"
_TEMPLATES = (
    "Where is the {thing}?",
    "How many {thing}s are there?",
    "What is beside the {thing}?",
    "What colour is the {thing}?",
    "Is there a {thing} in the picture?",
)
_TOKENS = 96
_LONGEST = 200  # characters of a question


def asked_by_model(
    model: Any, processor: Any, pictures: Mapping[str, Any], per_picture: int, advance: Callable[[int], None]
) -> dict[str, list[str]]:
    """At most ``per_picture`` questions of each picture.

    The model is asked for questions. Where it writes none, it is asked what it sees, and templates ask about that; general
    questions fill up what is missing.

    Args:
        model, processor: as ``trimkit.loading.load_model`` gives them.
        pictures: by name.
        per_picture: how many.
        advance: called with 1 after each picture.
    """
    found: dict[str, list[str]] = {}
    able = True  # a model that has written no question about the first pictures is not asked again
    for number, (name, picture) in enumerate(pictures.items()):
        own = _questions_in(_reply(model, processor, picture, _REQUEST, _TOKENS)) if able else []
        able = able and (bool(own) or any(found.values()) or number < 3)
        if len(own) < per_picture:
            thing = _thing_in(_reply(model, processor, picture, _NAME, 8))
            templates = [each.format(thing=thing) for each in _turned(_TEMPLATES, number)] if thing else []
            own += [*templates, *_turned(GENERIC_QUESTIONS, number)]
        found[name] = list(dict.fromkeys(own))[:per_picture]
        advance(1)
    return found


@torch.no_grad()
def _reply(model: Any, processor: Any, picture: Any, question: str, tokens: int) -> str:
    inputs = build_inputs(model, processor, [picture], [question], max_new_tokens=tokens)
    return decode(processor, inputs, model.generate(**inputs, max_new_tokens=tokens, do_sample=False))[0]


def _questions_in(reply: str) -> list[str]:
    lines = (re.sub(r"^[\s\-*•]*(\d+[.)])?\s*", "", line).strip() for line in reply.splitlines())
    return [line for line in lines if line.endswith("?") and 8 <= len(line) <= _LONGEST and is_text(line)]


def _thing_in(reply: str) -> str:
    """The last word of the first sentence, which names a thing in "a brown dog." and in "dog"."""
    words = re.findall(r"[^\W\d_]+", re.split(r"[.,;\n]", reply.strip())[0])
    return words[-1].lower() if words and is_text(words[-1]) else ""


def _turned(texts: tuple[str, ...], number: int) -> list[str]:
    at = number % len(texts)
    return [*texts[at:], *texts[:at]]
