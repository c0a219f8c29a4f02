"""The question of each batch row: what the user says in the last turn, read back from the prompt's token ids.

The chat template itself tells where a user turn begins and ends: it is rendered once around a marker. Prompts written by
hand in the same format are read the same way; where there is no template, common role markers serve.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trimkit.errors import InputError

__all__ = ["QueryReader"]

_MARKER = "\u2402trimkit\u2403"
# Turn headers of the usual formats, for processors without a chat template.
_USER = re.compile(r"(?<!\w)(?:USER|Human|User|user)\s*:\s*|\[INST\]|<\|im_start\|>user\n|<start_of_turn>user\n")
_ASSISTANT = re.compile(r"(?:ASSISTANT|Assistant|GPT)\s*:|\[/INST\]|<\|im_end\|>|<end_of_turn>|<\|im_start\|>assistant")


# What processors write around images, tiles and frames, of which not all are special tokens of their tokenizers.
_LAYOUT = re.compile(
    r"<\|?/?\w*(?i:img|image|vision|video)\w*\|?>|\[IMG(?:_BREAK|_END)?\]"  # <img>, <|vision_start|>; Pixtral's
    r"|<row_\d+_col_\d+>|<global-img>|TILE_(?:GLOBAL|\d+)"  # Idefics 3 and SmolVLM; Aya Vision
    r"|<\d+(?:\.\d+)? seconds>|\bFrame\d+:|\bFrame from [\d:]+:"  # frames: Qwen3-VL; InternVL; SmolVLM
    r"|You are provided the following series of [\w -]+ frames from a [\d:]+ \[H:MM:SS\] video\."
)


class QueryReader:
    """Reads questions from token ids.

    Args:
        processor: a processor or tokenizer; its chat template is used where there is one.
    """

    def __init__(self, processor: Any) -> None:
        self._tokenizer = getattr(processor, "tokenizer", processor)
        if not hasattr(self._tokenizer, "decode"):
            raise InputError(
                f"{type(processor).__name__} cannot decode token ids: pass the model's processor or query="
            )
        self._head, self._tail = self._turn_bounds(processor)
        known = {str(token) for token in self._tokenizer.all_special_tokens}
        added = getattr(self._tokenizer, "added_tokens_decoder", {}).values()  # some are special and in no list
        known |= {str(token) for token in added if getattr(token, "special", False)}
        specials = sorted(known - {""}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials))) if specials else None

    def read(self, input_ids: Tensor, image_token_id: int) -> str:
        """The last user turn of one row.

        Args:
            input_ids: ``[L]``.
            image_token_id: placeholders, which are left out.

        Returns:
            The question without role markers, special tokens and what marks images, tiles and frames; empty where the turn
            says nothing.
        """
        return self.turns(input_ids, image_token_id)[-1]

    def turns(self, input_ids: Tensor, image_token_id: int) -> list[str]:
        """Every user turn of one row, the first first, as ``read`` gives the last; the whole text where no turn is marked."""
        text = self.decode(input_ids, image_token_id)
        starts = self._starts(text)
        if not starts:
            return [self._clean(self._until_tail(text))]
        ends = [*(head for head, _ in starts[1:]), len(text)]
        return [self._clean(self._until_tail(text[body:end])) for (_, body), end in zip(starts, ends, strict=True)]

    def turn_at(self, input_ids: Tensor, image_token_id: int, column: int) -> int:
        """Which of ``turns`` column ``column`` of ``input_ids`` ``[L]`` belongs to."""
        before = self._starts(self.decode(input_ids[:column], image_token_id))
        return max(len(before) - 1, 0)

    def ends_turns(self, input_ids: Tensor, image_token_id: int) -> bool:
        """Whether marks tell where the last user turn ends, so that no answer is read with it."""
        text = self.decode(input_ids, image_token_id)
        starts = self._starts(text)
        rest = text[starts[-1][1] :] if starts else text
        return self._until_tail(rest) != rest

    def breaks_off(self, input_ids: Tensor, image_token_id: int) -> bool:
        """Whether the template's header begins a turn that nothing ends: the prompt was truncated within it."""
        begun = bool(self._head and self._tail) and bool(self._starts(self.decode(input_ids, image_token_id)))
        return begun and not self.ends_turns(input_ids, image_token_id)

    def without_marks(self, text: str) -> str:
        """``text`` without what marks turns."""
        for mark in filter(None, (self._head, self._tail)):
            text = text.replace(mark, " ")
        return text if self._head or self._tail else _ASSISTANT.sub(" ", _USER.sub(" ", text))

    def decode(self, input_ids: Tensor, image_token_id: int) -> str:
        """One row in words, with the marks, without placeholders."""
        ids = [token for token in input_ids.tolist() if token != image_token_id]
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def _starts(self, text: str) -> list[tuple[int, int]]:
        """Where each user header starts and ends."""
        pattern = _USER
        if self._head:
            pattern = re.compile(re.escape(self._head))
        elif self._tail:  # the template marks the end of a turn only
            return []
        return [match.span() for match in pattern.finditer(text)]

    def _until_tail(self, body: str) -> str:
        if self._head or self._tail:
            stop = body.find(self._tail) if self._tail else -1
            return body[:stop] if stop >= 0 else body
        found = _ASSISTANT.search(body)
        return body[: found.start()] if found else body

    def _clean(self, body: str) -> str:
        if self._special is not None:
            body = self._special.sub(" ", body)
        return " ".join(_LAYOUT.sub(" ", body).split())

    def _turn_bounds(self, processor: Any) -> tuple[str, str]:
        """Text just before and just after a user's words, as the chat template writes it."""
        template = getattr(processor, "chat_template", None) or getattr(self._tokenizer, "chat_template", None)
        if not template:
            return "", ""
        alone, later = _render(processor, [_MARKER]), _render(processor, ["A", "B", _MARKER])
        if _MARKER not in alone:
            return "", ""
        before, after = alone.split(_MARKER, 1)
        if _MARKER in later:  # what stands before a first and a later turn alike is the header; a system prompt is not
            before = _common_end(self._plain(before), self._plain(later.split(_MARKER, 1)[0]))
        # Chat formats put the header on a line of its own; what precedes ended something else.
        head = before.rstrip("\n").rsplit("\n", 1)[-1] if before.strip() else before
        return self._plain(head).strip(), _first_word(after)

    def _plain(self, text: str) -> str:
        """Without start and end tokens, which stand before some turns only."""
        for name in ("bos_token", "eos_token"):
            token = getattr(self._tokenizer, name, None)
            text = text.replace(token, "\n") if token and not text.rstrip().endswith(token) else text
        return text


def _common_end(a: str, b: str) -> str:
    count = 0
    while count < min(len(a), len(b)) and a[-1 - count] == b[-1 - count]:
        count += 1
    return a[len(a) - count :]


def _render(processor: Any, texts: Sequence[str]) -> str:
    """A conversation of turns by user and assistant in turn; empty where the template refuses."""
    roles = ("user", "assistant")
    for wrap in (lambda text: [{"type": "text", "text": text}], lambda text: text):
        turns = [{"role": roles[i % 2], "content": wrap(text)} for i, text in enumerate(texts)]
        try:
            return str(processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except Exception:  # a template may refuse the form; jinja raises many kinds
            continue
    return ""


def _first_word(after: str) -> str:
    """What ends a turn: the first mark after the user's words."""
    words = after.split()
    return words[0] if words else ""
