"""Turn marks of prompts whose processor has no chat template: the usual formats, tried one after the other."""

from __future__ import annotations

import re

from trimkit.pipeline.prompt_text import SPECIAL, PromptCoder
from trimkit.pipeline.turn_marks import Turn, TurnMarks, flexible, tool_answer

__all__ = ["PlainMarks"]

_MARKED = (
    ("[INST]", "[/INST]"),
    ("<|im_start|>user", "<|im_end|>"),
    ("<start_of_turn>user", "<end_of_turn>"),
    ("<|start_header_id|>user<|end_header_id|>", "<|eot_id|>"),
    ("<|user|>", "<|end|>"),
    ("<|user|>", "<|assistant|>"),
)
_WORDS = r"(?:USER|Human|User|user)\s*:\s*"
_REPLY = r"(?:ASSISTANT|Assistant|GPT)\s*:"


class PlainMarks:
    """Finds turns as ``TurnMarks`` does, by the first of the usual formats that a prompt shows.

    ``USER:`` in ordinary letters counts where a line or the prompt begins or a special token stands before it, and anywhere
    else if ``ASSISTANT:`` follows: a question may speak of a ``User:``. Where the prompt ends with ``ASSISTANT:`` on a line of
    its own, marks within a line are taken for the user's words.
    """

    def __init__(self, coder: PromptCoder) -> None:
        self._formats = []
        for head, tail in _MARKED:
            begin, end = flexible(coder.spell(head)), coder.spell(tail)
            special = end if re.fullmatch(f"[{SPECIAL}]", end) else ""
            words = [] if special else [(re.escape(end), "")]
            self._formats.append(TurnMarks([rf"{begin}\s*"], rf"{begin}\s*", special, words))
        words = [(rf"(?<!\w){_REPLY}", "\n")]
        anywhere = rf"(?<!\w){_WORDS}"
        surely = rf"(?:\A|(?<=[\n{SPECIAL}]))[^\S\n]*{_WORDS}"
        self._talk = TurnMarks([anywhere], anywhere, "", words, [tool_answer(coder)], space="\n")
        self._begun = TurnMarks([surely], anywhere, "", words)

    def turns(self, text: str) -> list[Turn]:
        """Every user turn, the first first."""
        talk = self._talk.turns(text)
        if talk and not talk[0].closed:
            talk = self._begun.turns(text)
        found = [turns for turns in (*(marks.turns(text) for marks in self._formats), talk) if turns]
        return min(found, key=lambda turns: (turns[0].start, not turns[0].closed), default=[])

    def end(self, text: str, start: int) -> tuple[int, int] | None:
        """Where a prompt without headers has its reply's mark: on a line of its own, or at the prompt's end."""
        found = re.compile(rf"(?:^|(?<=\n))[^\S\n]*{_REPLY}|(?<!\w){_REPLY}[\s{SPECIAL}]*\Z").search(text, start)
        return found.span() if found else None

    def is_tool(self, body: str) -> bool:
        """Whether a user turn holds a tool's answer instead of a user's words."""
        return self._talk.is_tool(body)
