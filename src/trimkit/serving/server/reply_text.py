"""The text of a reply while it is generated: pieces as soon as they are sure, up to the first stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["ReplyText"]

_BROKEN = "�"  # what a tokenizer writes for the first bytes of a letter


class ReplyText:
    """Turns tokens into text piece by piece; the pieces together are what decoding all tokens at once gives.

    Args:
        tokenizer: decodes.
        stops: texts that end the reply, which are left out of it.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._ids: list[int] = []
        self._start = 0  # where the window begins that is decoded anew for every token
        self._read = 0  # tokens whose text is in _text
        self._text = ""
        self._given = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """All that was given so far."""
        return self._text[: self._given]

    def add(self, token: int) -> str:
        """The text that is sure after one more token; empty where it may go on in a way that changes it."""
        self._ids.append(token)
        before = self._decode(self._start, self._read)
        after = self._decode(self._start, len(self._ids))
        if not after.endswith(_BROKEN) and len(after) > len(before):
            self._text += after[len(before) :]
            self._start, self._read = self._read, len(self._ids)
        return self._give(self._sure())

    def end(self) -> str:
        """What is left when no more tokens come."""
        if self.stopped:
            return ""
        before = self._decode(self._start, self._read)
        self._text += self._decode(self._start, len(self._ids))[len(before) :]
        self._read = len(self._ids)
        self._cut()
        return self._give(len(self._text))

    def _decode(self, start: int, end: int) -> str:
        return str(self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True))

    def _cut(self) -> None:
        """End the text before the first stop text in it."""
        found = [at for at in map(self._text.find, self._stops) if at >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.stopped = True

    def _sure(self) -> int:
        """How far the text holds no beginning of a stop text."""
        self._cut()
        if self.stopped:
            return len(self._text)
        longest = max(
            (n for stop in self._stops for n in range(1, len(stop)) if self._text.endswith(stop[:n])), default=0
        )
        return len(self._text) - longest

    def _give(self, upto: int) -> str:
        piece = self._text[self._given : upto]
        self._given = max(self._given, upto)
        return piece
