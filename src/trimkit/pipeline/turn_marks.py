"""Where the user's turns begin and end in a coded prompt, by the marks that a chat format writes around them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trimkit.pipeline.prompt_text import MEDIA, SPECIAL, PromptCoder

__all__ = ["Turn", "TurnMarks", "flexible", "plain_mark", "tool_answer"]


def tool_answer(coder: PromptCoder) -> str:
    """Pattern of a user turn that holds a tool's answer alone, as the Qwen family writes it."""
    return rf"\s*{coder.spell('<tool_response>')}[\s\S]*{coder.spell('</tool_response>')}\s*"


def flexible(text: str, *, numbers: bool = False) -> str:
    """A pattern of ``text`` for any white space where it has some and, with ``numbers``, any number where it has one."""
    parts = [re.escape(part) for part in re.split(r"\s+", text)]
    pattern = r"\s*".join(parts)
    return re.sub(r"\d+", lambda _: r"\d+", pattern) if numbers else pattern


def plain_mark(text: str) -> str:
    """A pattern of a mark in ordinary letters, which is no part of a longer word."""
    return (r"(?<!\w)" if text.strip()[:1].isalnum() else "") + flexible(text.strip())


@dataclass(frozen=True)
class Turn:
    """One user turn: ``start`` of its header, ``body`` to ``end`` what it holds, ``stop`` behind the mark that ends it.

    ``closed`` is false where no mark ends it.
    """

    start: int
    body: int
    end: int
    stop: int
    closed: bool


@dataclass(frozen=True)
class TurnMarks:
    """Patterns of one chat format.

    Attributes:
        heads: what may begin the first turn, the surest pattern first; empty where the format has no header.
        later: what begins a later one. It is looked for behind the end of the turn before, so that a user's own ``User:`` is
            never taken for one.
        ends: characters of special tokens that end a turn.
        words: patterns of words that end a turn (``ASSISTANT:``), each with the white space that the format writes before.
        tools: patterns of a whole user turn that holds a tool's answer.
        tool: pattern of the header of a tool's own turn, where words end a turn.
        space: white space that the format writes before a later header.
    """

    heads: Sequence[str]
    later: str
    ends: str = ""
    words: Sequence[tuple[str, str]] = ()
    tools: Sequence[str] = ()
    tool: str = ""
    space: str = ""

    def turns(self, text: str) -> list[Turn]:
        """Every user turn, the first first, tool answers included."""
        found: list[Turn] = []
        head = next(filter(None, (re.search(pattern, text) for pattern in self.heads)), None)
        while head is not None:
            end = self.end(text, head.end())
            start, stop = (len(text), len(text)) if end is None else end
            found.append(Turn(head.start(), head.end(), start, stop, end is not None))
            head = re.compile(self.later).search(text, stop) if end is not None and self.later else None
        return found

    def end(self, text: str, start: int) -> tuple[int, int] | None:
        """Span of the mark that ends the turn whose words begin at ``start``; None where none does."""
        special = re.compile(f"[{self.ends}]").search(text, start) if self.ends else None
        limit = special.start() if special else len(text)
        found = [span for pattern, space in self.words for span in _marks(text, start, limit, pattern, space)]
        if found:
            return self._chosen(text, sorted(found))
        return special.span() if special else None

    def is_tool(self, body: str) -> bool:
        """Whether a user turn holds a tool's answer instead of a user's words."""
        return any(re.fullmatch(pattern, body) for pattern in self.tools)

    def _chosen(self, text: str, marks: list[tuple[int, int, bool]]) -> tuple[int, int]:
        """Which of several ``ASSISTANT:`` ends the turn: the user may have typed one.

        A mark that ends the prompt is real, since the reply comes next. Else the first is: a reply rarely holds one, and its
        words come after. Marks with the white space that the format writes are preferred; where the last one has it and the
        first has not, a next turn has to have it too.
        """
        final = None if re.search(rf"[^\s{MEDIA}{SPECIAL}]", text[marks[-1][1] :]) else marks[-1]
        strict = final is not None and final[2] and not marks[0][2]
        begins = "|".join(filter(None, (self.later, self.tool)))
        found = re.compile(begins).finditer(text, marks[0][1]) if begins else iter(())
        following = next((each.start() for each in found if not strict or self._spaced(text, each.start())), len(text))
        if final is not None and final[1] <= following:
            return final[:2]
        near = [mark for mark in marks if mark[1] <= following]
        return next((mark for mark in near if mark[2]), near[0])[:2]

    def _spaced(self, text: str, at: int) -> bool:
        """Whether the format's white space, or a special token, stands before ``at``."""
        return text.endswith(self.space, 0, at) or bool(re.match(f"[{MEDIA}{SPECIAL}]", text[:at].rstrip()[-1:]))


def _marks(text: str, start: int, limit: int, pattern: str, space: str) -> list[tuple[int, int, bool]]:
    """Span of each mark, and whether the format's own white space stands before it."""
    return [
        (*found.span(), bool(space) and text.endswith(space, start, found.start()))
        for found in re.compile(pattern).finditer(text, start, limit)
    ]
