"""What a chat template puts into a user's turn beside the user's words: a system prompt, or the list of tools."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from trimkit.pipeline.turn_marks import flexible

__all__ = ["FoldedText", "tool_lead"]

_JSON = json.JSONDecoder()


@dataclass(frozen=True)
class FoldedText:
    """Text before the user's words in a turn.

    Attributes:
        lead: what the template writes before it.
        gap: what it writes between it and the user's words.
        last: it stands in the last user turn, not the first.
        tools: it is a list of tools as JSON, in whichever turn ``lead`` begins.
    """

    lead: str
    gap: str
    last: bool = False
    tools: bool = False

    def cut(self, before: str, rest: str, after: str) -> tuple[str, str]:
        """``before`` and ``rest`` of a turn without it.

        Where the template marks both its ends, those are cut. Where only white space parts it from the user's words (Gemma 3
        and Pixtral write an empty line), ids alone do not tell a system prompt from a user's first paragraph:

        * before a picture, a user's words end without that white space, so what ends with it is a system prompt;
        * elsewhere the text up to the first empty line is taken for one. A user's own first paragraph is then left out where
          there is no system prompt; a system prompt's later paragraphs stay.
        * a turn that begins with its picture holds none.

        Args:
            before: the turn up to its first picture; all of it where it has none.
            rest: from that picture on; empty where the turn has none.
            after: what follows that picture, which begins with the white space that the processor puts on both its sides.
        """
        if self.tools:
            return self._without_tools(before), rest
        if self.lead.strip():
            pattern = rf"\s*{flexible(self.lead.strip())}[\s\S]*?{flexible(self.gap.strip())}"
            return re.sub(rf"\A{pattern}", "", before), rest
        if not before.strip() or "\n" not in self.gap:
            return before, rest
        if rest and _space_after(before).endswith(self.gap + _space_before(after)):
            return "", rest
        text = before.strip()
        return text[text.index(self.gap) + len(self.gap) :] if self.gap in text else before, rest

    def _without_tools(self, text: str) -> str:
        lead = re.match(rf"\s*{flexible(self.lead.strip())}\s*", text)
        if lead is None:
            return text
        at = lead.end()
        while (end := _json_end(text, at)) is not None:
            at = end + len(_space_before(text[end:]))
        return text[at:]


def tool_lead(body: str, name: str) -> str:
    """What a turn's ``body`` says before the JSON of a tool named ``name``; empty where it has none."""
    for found in re.finditer(r"[{\[]", body):
        end = _json_end(body, found.start())
        if end is not None and name in body[found.start() : end]:
            return body[: found.start()]
    return ""


def _json_end(text: str, start: int) -> int | None:
    if text[start : start + 1] not in ("{", "["):
        return None
    try:
        return _JSON.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None


def _space_before(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _space_after(text: str) -> str:
    return text[len(text.rstrip()) :]
