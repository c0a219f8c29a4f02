"""The settings in the query of the page's address: a link opens the page as it was left. ``page.js`` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trimkit.web.choices import method_kinds
from trimkit.web.pictures import samples

__all__ = ["TABS", "Settings", "from_query"]

TABS = ("ask", "methods", "chat", "cost")
_MOST_LETTERS = 500


@dataclass(frozen=True)
class Settings:
    """What a link holds. An uploaded picture is not in it.

    Attributes:
        sample: name of a packaged picture.
        question: what is asked.
        method: its name.
        share: percent of the image tokens, 1 to 100; None for the method's own budget.
        tab: one of ``TABS``.
        notes: what of a link could not be used.
    """

    sample: str
    question: str
    method: str = "trim"
    share: int | None = None
    tab: str = "ask"
    notes: tuple[str, ...] = ()


def from_query(query: Mapping[str, str]) -> Settings:
    """Settings of a link; what it holds that cannot be is left out, with a note."""
    known, notes = samples(), []

    def chosen(name: str, allowed: list[str], otherwise: str) -> str:
        given = query.get(name)
        if given is None or given in allowed:
            return given or otherwise
        notes.append(f"the link's {name} {given[:40]!r} is not known here; {otherwise!r} is used")
        return otherwise

    sample = chosen("sample", list(known), next(iter(known)))
    method = chosen("method", [kind.name for kind in method_kinds()], "trim")
    tab = chosen("tab", list(TABS), "ask")
    question = query.get("question", "")[:_MOST_LETTERS].strip() or known[sample].question
    share = query.get("share")
    percent = int(share) if share is not None and share.isascii() and share.isdigit() and len(share) < 4 else None
    if share is not None and (percent is None or not 1 <= percent <= 100):
        notes.append("the link's share is no percentage from 1 to 100; the method's own budget is used")
        percent = None
    return Settings(sample, question, method, percent, tab, tuple(notes))
