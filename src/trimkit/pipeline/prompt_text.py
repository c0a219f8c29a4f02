"""A prompt's token ids as text in which special tokens and pictures stay what they are.

Decoding alone cannot tell the special token ``<|im_end|>`` from a user who typed these letters. Here every special token is one
character of a private Unicode plane, and every run of placeholders is ``MEDIA``; all other text is as the tokenizer decodes it.
Rendered chat templates are written the same way, so that the two can be compared.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MEDIA", "SPECIAL", "CodedPrompt", "PromptCoder", "encodable"]

MEDIA = "\uf8ff"
"""Stands for one run of placeholders."""

_FIRST = 0xF0000
SPECIAL = "\U000f0000-\U000ffffd"
"""The characters that stand for special tokens, as a range of a regular expression."""

_PICTURE = re.compile(
    r"^(?:<\|?/?\w*(?:im|img|image|vision|video|row|tile|patch|frame)\w*\|?>|\[IMG\w*\])$", re.IGNORECASE
)
"""Tokens that some vocabularies hold without saying that they are special."""

_RESERVED = re.compile(f"[{MEDIA}{SPECIAL}]")


def encodable(text: str) -> str:
    """``text`` without lone surrogates, which no tokenizer takes: halves of a pair are joined, the rest become U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@dataclass(frozen=True)
class CodedPrompt:
    """One prompt.

    Attributes:
        text: with a character for every special token and every run of placeholders.
        columns: first column of every piece (ordinary text, special token, run of placeholders).
        offsets: where each piece begins in ``text``.
    """

    text: str
    columns: Sequence[int]
    offsets: Sequence[int]

    def offset(self, column: int) -> int:
        """Where the piece that holds ``column`` begins in ``text``."""
        return self.offsets[max(bisect.bisect_right(self.columns, column) - 1, 0)] if self.columns else 0


class PromptCoder:
    """Codes prompts of one tokenizer.

    Args:
        tokenizer: anything with ``decode``. Its special tokens are found by their ids where it tells those, else by their text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._of_id: dict[int, str] = {}
        self._of_text: dict[str, str] = {}
        self._by_text: list[str] = []
        for number, (text, token_id) in enumerate(_special_tokens(tokenizer).items()):
            self._of_text[text] = chr(_FIRST + number)
            if token_id is None:
                self._by_text.append(text)
            else:
                self._of_id[token_id] = self._of_text[text]
        self.by_text = not self._of_id
        """Whether special tokens are found by their text alone."""
        self._text_of = {code: text for text, code in self._of_text.items()}
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        edges = (str(getattr(tokenizer, name, None) or "") for name in names)
        self.edges = "".join(self._of_text.get(text, "") for text in edges)
        """Characters of tokens that may stand before and after a prompt and are no part of what is said."""

    def code(self, ids: Sequence[int], image_token_id: int) -> CodedPrompt:
        """Code a prompt; a run of ``image_token_id`` becomes one ``MEDIA``."""
        parts: list[str] = []
        columns: list[int] = []
        for column, kind, tokens in self._pieces(ids, image_token_id):
            columns.append(column)
            parts.append(kind or self._replaced(self._decoded(tokens), self._by_text))
        offsets, at = [], 0
        for part in parts:
            offsets.append(at)
            at += len(part)
        return CodedPrompt("".join(parts), columns, offsets)

    def spell(self, text: str) -> str:
        """Template text in the same form."""
        return self._replaced(text, [token for token in self._of_text if token in text])

    def of_id(self, token_id: int) -> str:
        """The character of a special token, or an empty string."""
        return self._of_id.get(token_id, "")

    def read(self, text: str) -> str:
        """Coded text as a user would write it: special tokens by their names, pictures left out, white space as one space."""
        spelled = _RESERVED.sub(lambda found: self._text_of.get(found[0], " "), text)
        return " ".join(spelled.split())

    def without_special(self, text: str) -> str:
        """Coded text without special tokens."""
        return re.sub(f"[{SPECIAL}]", " ", text)

    def _pieces(self, ids: Sequence[int], image_token_id: int) -> Iterator[tuple[int, str, Sequence[int]]]:
        """Column, character and ids of every piece; the character is empty for ordinary text."""
        known = self._of_id
        start = 0
        for column in [i for i, token in enumerate(ids) if token == image_token_id or token in known]:
            if start < column:
                yield start, "", ids[start:column]
            if ids[column] != image_token_id:
                yield column, known[ids[column]], ()
            elif column == 0 or ids[column - 1] != image_token_id:
                yield column, MEDIA, ()
            start = column + 1
        if start < len(ids):
            yield start, "", ids[start:]

    def _decoded(self, ids: Sequence[int]) -> str:
        try:
            text = str(self._tokenizer.decode(list(ids), skip_special_tokens=False))
        except Exception:  # one id that the vocabulary lacks spoils all; tokenizers raise many kinds
            text = "".join(map(self._decoded_alone, ids))
        return encodable(_RESERVED.sub("\ufffd", text))

    def _decoded_alone(self, token: int) -> str:
        try:
            return str(self._tokenizer.decode([token], skip_special_tokens=False))
        except Exception:
            return ""

    def _replaced(self, text: str, tokens: Sequence[str]) -> str:
        if not tokens:
            return text
        longest = sorted(tokens, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest)), lambda found: self._of_text[found[0]], text)


def _special_tokens(tokenizer: Any) -> dict[str, int | None]:
    """Text and id of every special token; None where the tokenizer does not tell the id."""
    found: dict[str, int | None] = {}
    try:
        added = dict(tokenizer.added_tokens_decoder)
    except (AttributeError, NotImplementedError):
        added = {}
    for token_id, token in added.items():
        if getattr(token, "special", False) or _PICTURE.search(str(token)):
            found[str(token)] = int(token_id)
    for token in getattr(tokenizer, "all_special_tokens", ()):
        if str(token) not in found:
            known = tokenizer.convert_tokens_to_ids(str(token)) if hasattr(tokenizer, "convert_tokens_to_ids") else None
            found[str(token)] = known if isinstance(known, int) else None
    return {text: token_id for text, token_id in found.items() if text.strip()}
