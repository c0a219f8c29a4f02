"""Conversations rendered by a processor's chat template, to see what it writes around words and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from trimkit.pipeline.prompt_text import PromptCoder

__all__ = ["TOOL", "Renderer"]

Said = tuple[str, Sequence[str]]
"""A role, and what it says: ``image``, ``video``, or words. The role ``caller`` is an assistant that calls a tool."""

_MEDIA = ("image", "video")
_GIVEN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "message", "loop"}
)
_MOST_SWITCHES = 8

TOOL = {
    "type": "function",
    "function": {
        "name": "qzlookupqz",
        "description": "Looks up.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
    },
}
"""A tool whose name no template writes by itself."""

_CALL = {"id": "qz1234567", "type": "function", "function": {"name": "qzlookupqz", "arguments": {"key": "a"}}}


class Renderer:
    """Renders short conversations in coded form (see ``PromptCoder``).

    Args:
        processor: a processor or tokenizer.
        tokenizer: its tokenizer.
        coder: codes what comes out.
    """

    def __init__(self, processor: Any, tokenizer: Any, coder: PromptCoder) -> None:
        self._owner = next((each for each in (processor, tokenizer) if getattr(each, "chat_template", None)), None)
        self._coder = coder

    @property
    def switches(self) -> list[str]:
        """Names in the template's source that look like options that can be on or off, such as ``add_vision_id``."""
        source = str(getattr(self._owner, "chat_template", ""))
        tested = re.findall(r"\b([a-z]\w*) is (?:not )?defined|\bif (?:not )?([a-z]\w*)\b(?![.(\[])", source)
        own = set(re.findall(r"\bset ([a-z]\w*)|\bfor ([a-z]\w*)", source))
        names = dict.fromkeys(one or other for one, other in tested)
        return [name for name in names if name not in _GIVEN | {a or b for a, b in own}][:_MOST_SWITCHES]

    def __call__(self, said: Sequence[Said], *, generating: bool = True, **options: Any) -> str | None:
        """The conversation in coded form; None where the template refuses, or leaves out any of the words."""
        words = [word for _, items in said for word in items if word not in _MEDIA]
        for turns in _forms(said):
            try:
                text = self._render(turns, generating, options)
            except Exception:  # a template may refuse a form; jinja raises many kinds
                continue
            if "{'type'" not in text and all(text.count(word) == 1 for word in words):  # not the form itself, printed
                return self._coder.spell(text)
        return None

    def _render(self, turns: list[dict[str, Any]], generating: bool, options: dict[str, Any]) -> str:
        if self._owner is None:
            return ""
        return str(self._owner.apply_chat_template(turns, tokenize=False, add_generation_prompt=generating, **options))


def _forms(said: Sequence[Said]) -> Iterator[list[dict[str, Any]]]:
    """The conversation with content as lists, as text, and with text for all roles but the user."""
    plain = not any(item in _MEDIA for _, items in said for item in items)
    yield [_turn(role, items, as_list=True) for role, items in said]
    if plain:
        yield [_turn(role, items, as_list=False) for role, items in said]
    yield [_turn(role, items, as_list=role == "user") for role, items in said]


def _turn(role: str, items: Sequence[str], *, as_list: bool) -> dict[str, Any]:
    content = [{"type": item} if item in _MEDIA else {"type": "text", "text": item} for item in items]
    turn: dict[str, Any] = {"role": role, "content": content if as_list else "".join(items)}
    if role == "tool":
        turn |= {"name": "qzlookupqz", "tool_call_id": _CALL["id"]}
    if role == "caller":
        turn |= {"role": "assistant", "tool_calls": [_CALL]}
    return turn
