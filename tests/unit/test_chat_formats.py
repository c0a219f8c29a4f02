"""The question of real chat formats: exactly the user's own words, whatever the layout."""

from __future__ import annotations

import pytest

from tests.chat.layouts import LAYOUTS, Layout
from tests.chat.more_formats import ALL
from tests.chat.tokens import image_token_id, prompt_ids, tokenizer_of
from trimkit.pipeline.query_reader import QueryReader

READERS: dict[str, QueryReader] = {}


def _said(name: str, layout: Layout) -> bool:
    """Whether the format has a way to say it."""
    form = ALL[name]
    items = [item["type"] for turn in layout.messages for item in turn["content"]]
    tools = any(turn["role"] == "tool" for turn in layout.messages)
    return (
        (bool(form.video) or "video" not in items)
        and (bool(form.tiles) or not layout.tiles)
        and not (tools and "tool" in form.leaves)
    )


CASES = [(name, layout) for name in ALL for layout in LAYOUTS if _said(name, LAYOUTS[layout])]


def reader_of(name: str) -> QueryReader:
    if name not in READERS:
        READERS[name] = QueryReader(tokenizer_of(name))
    return READERS[name]


@pytest.mark.parametrize(("name", "layout"), CASES, ids=[f"{name}: {layout}" for name, layout in CASES])
def test_exactly_the_words(name: str, layout: str) -> None:
    wanted = LAYOUTS[layout]
    ids = prompt_ids(name, wanted)
    assert reader_of(name).read(ids, image_token_id(name)) == wanted.question


def test_there_are_enough() -> None:
    assert len(ALL) >= 20
    assert min(sum(one == name for one, _ in CASES) for name in ALL) >= 12
