"""What is asked: pictures of many shapes, mixed budgets, several pictures, several turns, the same picture again."""

from __future__ import annotations

import itertools
from typing import Any

from PIL import Image

from tests.vllm.requests import Case, Turn
from trimkit.demo import sample_images

_SHAPES = [(100, 50), (60, 120), (112, 112), (56, 56), (300, 90)]


def pictures(*, small: bool) -> list[Image.Image]:
    """The demo's scenes; small ones in five shapes, for models whose towers see 56 pixels."""
    found = [Image.open(sample.path).convert("RGB") for sample in sample_images().values()]
    return [picture.resize(shape) for picture, shape in zip(found, _SHAPES, strict=True)] if small else found


def questions() -> list[str]:
    return [each.question for each in next(iter(sample_images().values())).questions]


def single(shown: list[Image.Image], budgets: list[Any], count: int) -> list[Case]:
    """Every picture with ``count`` questions."""
    pairs = itertools.product(range(len(shown)), range(count))
    return [Case((Turn(questions()[q], (shown[i],)),), {"budget": budgets[(i + q) % len(budgets)]}) for i, q in pairs]


def two_pictures(shown: list[Image.Image], budget: Any) -> list[Case]:
    return [
        Case((Turn(question, (one, other)),), {"budget": budget})
        for question, (one, other) in zip(questions(), itertools.pairwise(shown), strict=False)
    ]


def two_turns(shown: list[Image.Image], budget: Any, *, several: bool = True) -> list[Case]:
    """A second question, with a further picture where ``several``; chosen anew, or as the first question chose."""
    asked, found = questions(), []
    for i, picture in enumerate(shown[:3]):
        later = (shown[(i + 2) % len(shown)],) if several else ()
        turns = (Turn(asked[i], (picture,)), Turn("yes", role="assistant"), Turn(asked[3 - i], later))
        found += [Case(turns, {"budget": budget, "turns": policy}) for policy in ("refresh", "first")]
    return found


def settings(picture: Image.Image, budget: int, methods: tuple[str, ...]) -> list[Case]:
    """The server's own settings; methods; a question of the client's own, and none; a turn without words."""
    shown = (Turn(questions()[0], (picture,)),)
    found = [Case(shown), Case(shown, {"query": "a dog", "budget": budget}), Case((Turn("", (picture,)),))]
    return found + [Case(shown, {"method": method, "budget": budget}) for method in methods]


def named(shown: list[Image.Image], budget: Any) -> list[Case]:
    """Pictures that the client has given names of its own, each with several questions."""
    return [
        Case((Turn(question, (picture,)),), {"budget": budget}, (f"picture-{number}",))
        for number, picture in enumerate(shown[:2])
        for question in questions()[:3]
    ]
