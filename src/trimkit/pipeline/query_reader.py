"""The question of each batch row: what the user says in the last turn, read back from the prompt's token ids.

The chat template is rendered once around words that nobody else writes, which shows what it puts before and behind each role's
words, around pictures, and beside the user's words in a user's turn (``chat_format``). A prompt is then read by these marks, so
that what a user typed stays, whatever it looks like. Prompts written by hand in the same format are read the same way; where
there is no template, common role markers serve (``plain_marks``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimkit.errors import InputError
from trimkit.pipeline.chat_format import learn_format
from trimkit.pipeline.media_marks import MediaMarks
from trimkit.pipeline.plain_marks import PlainMarks
from trimkit.pipeline.prompt_text import CodedPrompt, PromptCoder
from trimkit.pipeline.turn_marks import Turn

__all__ = ["QueryReader", "ReadPrompt"]

_PLACEHOLDERS = ("image_token", "video_token", "audio_token")


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt in coded form, with its turns: the user's own, and all (tool answers included)."""

    prompt: CodedPrompt
    own: list[Turn]
    all: list[Turn]


class QueryReader:
    """Reads questions from token ids.

    Args:
        processor: a processor or tokenizer; its chat template is used where there is one.

    Raises:
        InputError: it cannot decode.
    """

    def __init__(self, processor: Any) -> None:
        tokenizer = getattr(processor, "tokenizer", processor)
        if not hasattr(tokenizer, "decode"):
            raise InputError(
                f"{type(processor).__name__} cannot decode token ids: pass the model's processor or query="
            )
        self._coder = PromptCoder(tokenizer)
        self._format = learn_format(processor, tokenizer, self._coder)
        self._marks = self._format.marks if self._format else PlainMarks(self._coder)
        names = {str(getattr(each, name, "")) for each in (processor, tokenizer) for name in _PLACEHOLDERS}
        self._placeholders = "".join(sorted(code for code in map(self._coder.spell, names - {""}) if len(code) == 1))
        self._media: dict[int, MediaMarks] = {}

    def read(self, input_ids: Tensor, image_token_id: int) -> str:
        """What the user said last in one row.

        Args:
            input_ids: ``[L]``.
            image_token_id: placeholders, which are left out.

        Returns:
            The words of the last user turn that has any, with white space as single spaces: without role marks, pictures and
            what marks them, a tool's answer, and a system prompt that the template puts into the turn. Empty where the user
            says nothing at all.
        """
        return self.last(input_ids, image_token_id)[0]

    def last(self, input_ids: Tensor, image_token_id: int) -> tuple[str, bool]:
        """What ``read`` gives, and whether the last user turn says it (and none before)."""
        said = self.said(self._read(input_ids, image_token_id), image_token_id)
        words = next(said, "")
        return (words, True) if words else (next(filter(None, said), ""), False)

    def turns(self, input_ids: Tensor, image_token_id: int) -> list[str]:
        """The words of every user turn of one row, the first first; of the whole text where no turn is marked.

        A turn of pictures alone has none. A tool's answer is no turn of the user.
        """
        return list(self.said(self._read(input_ids, image_token_id), image_token_id))[::-1] or [""]

    def everything(self, read: ReadPrompt, image_token_id: int) -> str:
        """All that both sides say from the first user turn on; of the whole text where no turn is marked."""
        text, at = read.prompt.text, read.all[0].start if read.all else 0
        parts = []
        for turn in read.all:
            parts += [text[at : turn.start], text[turn.body : turn.end]]
            at = turn.stop
        media = self._media_marks(image_token_id)
        said = " ".join(media.without(part) for part in [*parts, text[at:]])
        return self._coder.read(self._coder.without_special(said))

    def turn_at(self, input_ids: Tensor, image_token_id: int, column: int) -> int:
        """Which of ``turns`` column ``column`` of ``input_ids`` ``[L]`` belongs to: a tool's picture to the turn before it."""
        read = self._read(input_ids, image_token_id)
        at = read.prompt.offset(column)
        return max(sum(turn.body <= at for turn in read.own) - 1, 0)

    def ends_turns(self, input_ids: Tensor, image_token_id: int) -> bool:
        """Whether marks tell where the last user turn ends, so that no answer is read with it."""
        read = self._read(input_ids, image_token_id)
        return read.all[-1].closed if read.all else self._marks.end(read.prompt.text, 0) is not None

    def hidden(self, input_ids: Tensor, learnt: Tensor, image_token_id: int) -> Tensor:
        """``input_ids`` ``[L]`` with ordinary text where ``learnt`` ``[L]`` holds under placeholders, which no reader sees."""
        special = [bool(self._coder.of_id(token)) for token in input_ids.tolist()]
        return input_ids.masked_fill(learnt & ~torch.tensor(special, device=learnt.device), image_token_id)

    def breaks_off(self, input_ids: Tensor, image_token_id: int) -> bool:
        """Whether the template's header begins a turn that nothing ends: the prompt was truncated within it."""
        read = self._read(input_ids, image_token_id)
        return self._format is not None and bool(read.all) and not read.all[-1].closed

    def _read(self, input_ids: Tensor, image_token_id: int) -> ReadPrompt:
        prompt = self._coder.code(input_ids.tolist(), image_token_id)
        turns = self._marks.turns(prompt.text)
        own = [turn for turn in turns if not self._marks.is_tool(prompt.text[turn.body : turn.end])]
        return ReadPrompt(prompt, own, turns)

    def said(self, read: ReadPrompt, image_token_id: int) -> Iterator[str]:
        """The words of every user turn, the last first; each is worked out when it is asked for."""
        text, media = read.prompt.text, self._media_marks(image_token_id)
        if not read.all:
            end = self._marks.end(text, 0)
            yield self._coder.read(media.without(text[: end[0]] if end else text))
        last = len(read.own) - 1
        for number, turn in reversed(list(enumerate(read.own))):
            yield self._words(text[turn.body : turn.end], media, number, last)

    def _words(self, body: str, media: MediaMarks, number: int, last: int) -> str:
        """What the user says in turn ``number`` of ``last`` + 1."""
        for fold in self._format.folds if self._format else ():
            if fold.tools or number == (last if fold.last else 0):
                start, end = media.first(body)
                before, rest = fold.cut(body[:start], body[start:], body[end:])
                body = before + rest
        for ending in self._format.endings if self._format else ():
            body = re.sub(rf"{ending}\Z", "", body.rstrip())
        return self._coder.read(media.without(body))

    def _media_marks(self, image_token_id: int) -> MediaMarks:
        found = self._media.get(image_token_id)
        if found is None:
            forms = self._format.media if self._format else ()
            placeholders = self._placeholders + self._coder.of_id(image_token_id)
            found = self._media[image_token_id] = MediaMarks(
                forms, placeholders, self._coder.edges, by_text=self._coder.by_text
            )
        return found
