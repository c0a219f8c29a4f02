"""What a processor writes around pictures and frames, found by its place beside placeholders, never inside a user's words."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from trimkit.pipeline.prompt_text import MEDIA, SPECIAL
from trimkit.pipeline.turn_marks import flexible

__all__ = ["MediaMarks"]

_MARK = f"[{SPECIAL}]"
# Marks as text: of tiles and rows (Aya Vision's are no special tokens; Idefics 3, LFM2-VL), and what opens and ends a picture.
_TILE = r"TILE_(?:GLOBAL|\d+)"
_OPENING = (
    rf"{_TILE}|<row_\d+_col_\d+>|<global-img>|<\|img_\w+\|>|<fake_token_around_image>"
    r"|<\|?(?:img|image|im|video|frame|vision|START_OF_IMG|start_of_(?:image|video)|begin_of_(?:image|video))(?:_start)?\|?>"
)
_CLOSING = (
    r"\[IMG_(?:BREAK|END)\]|<fake_token_around_image>|</(?:img|image|video|slice)>"
    r"|<\|?(?:(?:img|image|im|video|frame|vision|media)_end|END_OF_IMG|end_of_(?:image|video))\|?>"
)
# Words that processors of transformers write before a frame, or a whole video.
_LABELS = (
    r"You are provided the following series of [\w -]+ frames from a [\d:]+ \[H:MM:SS\] video\.",  # SmolVLM
    r"Frame from \d+(?::\d+)+:",
    r"Frame\d+:\s",  # InternVL
    r"Frame \d+(?: sampled at [\d.]+ seconds)?(?: and frame \d+(?: sampled at [\d.]+ seconds)?)*:\s",  # Nemotron
    r"<\d+(?:\.\d+)? seconds>",  # Qwen3-VL
    r"\]<\]\d+(?:\.\d+)? seconds\[>\[",  # MiniMax
    r",?Time \d+(?:\.\d+)?s:",  # VideoLLaMA 3
    r"\d\d:\d\d:\d\d\.\d\d\d",  # Kimi
)
_NUMBERS = (
    rf"(?<!\S)\d+(?:\.\d|:\d\d) (?={_MARK})"  # Molmo 2, Gemma 4: seconds, or minutes and seconds, before a frame's mark
)
_MOST_LABELS = 4  # before one picture
_CROPS = ("Here is the original image", "and here are some crops to help you see better")  # Gemma 3, pan and scan


class MediaMarks:
    """Takes pictures, and what the processor wrote around them, out of a user's turn.

    Only what stands directly before or behind a placeholder goes: there a processor writes. The same letters among a user's
    words stay. A special token that a user types directly before a picture, without a space, goes with the picture's own.

    Args:
        forms: what the chat template writes for one picture or video, in coded form (see ``ChatFormat.media``).
        placeholders: the characters of special tokens that stand for a picture or video in ``forms``.
        edges: characters that may stand before and after a prompt.
        by_text: the tokenizer does not tell the ids of its special tokens, so that marks are known by their letters.
    """

    def __init__(self, forms: Sequence[str], placeholders: str, edges: str, *, by_text: bool) -> None:
        self._edges = edges
        lefts, rights, labels, whole = [], [], [], []
        for form in forms:
            left, found, right = _at_placeholder(form, placeholders)
            label = re.split(_MARK, left)[0]
            labels += [label] if re.search(r"\d", label) else []
            lefts += [left.strip()] if found and re.search(rf"{_MARK}[^{SPECIAL}]+{_MARK}\s*$", left) else []
            rights += [right.strip()] if found and re.match(rf"\s*{_MARK}", right) else []
            whole += [form.strip()] if re.search(_MARK, form) else []
        self._whole = sorted({flexible(form, numbers=True) for form in whole}, key=len, reverse=True)
        label = "|".join([*_LABELS, *sorted({_label(each) for each in labels})])
        between = rf"(?<={_MARK})\d+(?:\.\d+)?(?={_MARK})"
        brackets = "".join(f"{flexible(each, numbers=True)}|" for each in sorted(set(lefts)))
        named = rf"(?:(?<!\s)\s*(?:{label})|(?:{label})|{_NUMBERS}){{0,{_MOST_LABELS}}}"
        opening, self._closing = (_OPENING, _CLOSING) if by_text else (_TILE, "(?!)")
        self._before = rf"{named}(?:{brackets}(?:{_MARK}|{opening}|{between})*){MEDIA}"
        self._rights = "".join(f"{flexible(each, numbers=True)}|" for each in sorted(set(rights)))

    def first(self, body: str) -> tuple[int, int]:
        """Span of the first picture of a turn with its marks; the turn's end, twice, where it has none."""
        found = self._picture(body).search(body)
        return found.span() if found else (len(body), len(body))

    def without(self, body: str) -> str:
        """A turn without its pictures and their marks."""
        body = self._trimmed(body)
        body = re.sub(rf"({_MARK})\1{{2,}}", MEDIA, body)  # a run of one special token stands for a recording
        if MEDIA not in body:
            return self._without_unexpanded(body)
        picture = self._picture(body).pattern
        original, crops = (flexible(each) for each in _CROPS)
        body = re.sub(rf"{original}\s*({picture})\s*{crops}(?=\s*{self._before})", r"\1", body)
        return re.sub(picture, " ", body)

    def _picture(self, body: str) -> re.Pattern[str]:
        """A placeholder run with what stands directly before and behind it.

        Behind it goes one mark, and those that follow at once, as long as none of them begins another picture.
        """
        begins = set(re.findall(rf"(?<![{SPECIAL}{MEDIA}])({_MARK}){_MARK}*{MEDIA}", body))
        more = f"(?:(?![{''.join(begins)}]){_MARK})*" if begins else f"{_MARK}*"
        after = rf"(?:{self._rights}{_MARK}{more}|(?:{self._closing}))?(?:(?<={_MARK})\d+{_MARK})?"
        return re.compile(self._before + after)

    def _without_unexpanded(self, body: str) -> str:
        """A turn whose prompt has no placeholders: a serving engine's, before it puts them in, or one that lost them."""
        for form in self._whole:
            several = len(re.findall(_MARK, form)) > 1
            body = re.sub(form, " ", body) if several else _without_ends(form, body)
        return re.sub(rf"\A\s*(?:(?:{'|'.join(_LABELS)})\s*){{2,}}", "", body)

    def _trimmed(self, body: str) -> str:
        """Without padding and end tokens of a turn that was cut off."""
        return body.strip(string.whitespace + self._edges)


def _without_ends(form: str, body: str) -> str:
    """``body`` without what matches ``form`` at either end."""
    body = body.strip()
    while (found := re.match(form, body)) and found.end():
        body = body[found.end() :].strip()
    while found := re.search(rf"(?:{form})\Z", body):
        body = body[: found.start()].strip()
    return body


def _label(text: str) -> str:
    """Pattern of what a template writes before a picture, such as ``Picture 1: ``."""
    return flexible(text.strip(), numbers=True) + (r"\s" if text[-1].isspace() else "")


def _at_placeholder(form: str, placeholders: str) -> tuple[str, bool, str]:
    """What stands before and behind the first placeholder; before the last mark where there is none."""
    found = re.search(f"[{placeholders}]", form) if placeholders else None
    return (form[: found.start()], True, form[found.end() :]) if found else (form, False, "")
