"""Which parts of a line run from right to left: the implicit levels of Unicode's bidirectional algorithm (UAX 9), no more.

Source: https://www.unicode.org/reports/tr9/. Explicit embeddings and isolates are not looked at.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = ["base_level", "levels", "visual_order"]

_LEFT, _RIGHT, _NUMBER, _NEUTRAL = "L", "R", "N", " "


def base_level(text: str) -> int:
    """1 where the first letter that has a direction runs from right to left, else 0 (rules P2 and P3)."""
    for letter in text:
        kind = _kind(letter)
        if kind in (_LEFT, _RIGHT):
            return int(kind == _RIGHT)
    return 0


def levels(text: str, base: int) -> list[int]:
    """The level of every letter; odd ones run from right to left."""
    kinds = _joined_numbers([_kind(letter) for letter in text], text)
    strong = [_RIGHT, _LEFT][1 - base]
    resolved: list[str] = []
    for place, kind in enumerate(kinds):
        if kind == _NUMBER and strong == _LEFT and base == 0:  # W7: numbers in Latin text are Latin text
            kinds[place] = kind = _LEFT
        if kind in (_LEFT, _RIGHT):
            strong = kind
        resolved.append(kind)
    own = _RIGHT if base else _LEFT
    found = []
    for place, kind in enumerate(resolved):
        if kind == _NEUTRAL:  # N1 and N2: as both sides where they agree, else as the paragraph
            before, after = _side(resolved[:place][::-1], own), _side(resolved[place + 1 :], own)
            kind = before if before == after else own
        found.append({_LEFT: 2 * base, _RIGHT: 1, _NUMBER: 2}[kind])
    return found


def visual_order(levels_: Sequence[int]) -> list[int]:
    """Places of the parts from left to right, of parts with these levels (rule L2)."""
    order = list(range(len(levels_)))
    for level in range(max(levels_, default=0), 0, -1):
        start = 0
        while start < len(order):
            end = start
            while end < len(order) and levels_[order[end]] >= level:
                end += 1
            order[start:end] = order[start:end][::-1]
            start = max(end, start + 1)
    return order


def _kind(letter: str) -> str:
    found = unicodedata.bidirectional(letter)
    if found in ("R", "AL"):
        return _RIGHT
    if found in ("EN", "AN"):
        return _NUMBER
    return _LEFT if found in ("L", "") else _NEUTRAL


def _joined_numbers(kinds: list[str], text: str) -> list[str]:
    """With the point in 3.5 and the marks within a word as what they stand in."""
    out = list(kinds)
    for place, letter in enumerate(text):
        found = unicodedata.bidirectional(letter)
        if found == "NSM" and place:
            out[place] = out[place - 1]
        elif found in ("CS", "ES") and out[place - 1 : place] == [_NUMBER] == kinds[place + 1 : place + 2]:
            out[place] = _NUMBER
    return out


def _side(kinds: Sequence[str], own: str) -> str:
    """The direction on one side of a neutral letter; numbers count as right to left."""
    first = next((kind for kind in kinds if kind != _NEUTRAL), own)
    return _RIGHT if first == _NUMBER else first
