"""What a method keeps of a picture for a question, without the language model; and how that is drawn."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

from PIL import Image

from trimkit.core.report import Report
from trimkit.errors import ConfigError
from trimkit.methods import Method, get_method, method_classes
from trimkit.web.model import Loaded
from trimkit.web.pictures import Picture

__all__ = ["Choice", "Drawn", "Kind", "build_method", "choose", "draw", "inputs_for", "method_kinds"]

_SIDE = 448  # longer side of what is drawn, in pixels
_GAP = 6


@dataclass(frozen=True)
class Kind:
    """What the page says of a method; ``in_model`` is set where it chooses inside the language model."""

    name: str
    summary: str
    paper: str
    in_model: bool
    reads_text: bool


@dataclass(frozen=True)
class Choice:
    """A report of what was kept, and the seconds that it took."""

    report: Report
    seconds: float


@dataclass(frozen=True)
class Drawn:
    """Kept patches and what they were ranked by, with a title each."""

    kept: Image.Image
    ranked: Image.Image
    kept_title: str
    ranked_title: str


def method_kinds() -> list[Kind]:
    """All methods that drop tokens, by name."""
    return [
        Kind(name, cls.summary, cls.paper, cls.stage == "llm", cls.uses_text)
        for name, cls in method_classes()
        if name != "none"
    ]


def build_method(name: str, share: float | None) -> Method:
    """A method with a budget.

    Args:
        name: of the method.
        share: of the image tokens to keep, 0 to 1; None for the method's own budget.

    Raises:
        TrimkitError: no such method or budget.
    """
    options: dict[str, Any] = {} if share is None else {"budget": float(share)}
    return get_method(name, **options)


def inputs_for(loaded: Loaded, picture: Picture, question: str, new_tokens: int = 32) -> Any:
    """Model inputs of one question about one picture; the last ones are held.

    Raises:
        InputError: the question cannot be asked.
    """
    from trimkit.ask import build_inputs

    held = loaded.inputs.get((picture.key, question))
    if held is None:
        held = build_inputs(loaded.model, loaded.processor, [picture.image], [question], max_new_tokens=new_tokens)
        loaded.inputs.put((picture.key, question), held)
    return held


def choose(loaded: Loaded, picture: Picture, question: str, method: Method) -> Choice:
    """What ``method`` keeps. The vision tower runs once a picture; the language model does not run.

    Raises:
        ConfigError: the method chooses inside the language model.
        TrimkitError: the method does not run on this model, or the question cannot be asked.
    """
    import torch

    from trimkit.pipeline.prepare import prepare

    if method.prunes_llm:
        raise ConfigError(f"{method.name} chooses inside the language model: press Ask to see what it keeps")
    start = time.perf_counter()
    inputs = inputs_for(loaded, picture, question)
    how: dict[str, Any] = {"query": question, "method": method, "scorer": loaded.scorer}
    alone = loaded.answering if loaded.own_positions else contextlib.nullcontext()
    with torch.no_grad(), alone:
        reduced = prepare(loaded.model, loaded.processor, inputs, generating=False, **how)
    return Choice(reduced.report, time.perf_counter() - start)


def draw(report: Report) -> Drawn | None:
    """Kept patches and relevance over the picture as the model's encoder was given it; None without a picture."""
    from trimkit.viz.scenes import Scene, scenes_of
    from trimkit.viz.sheet import panels_of

    views = getattr(report.renderer, "views", None)
    if views is None or not report.images:
        return None
    rows = []
    for image, parts in zip(report.images, views(), strict=True):
        scenes: list[Scene | None] = [*scenes_of(parts)] or [None]
        rows += [panels_of(image, scene, _SIDE if len(scenes) == 1 else _SIDE // 2) for scene in scenes]
    first = rows[0]
    return Drawn(
        _mosaic([row.left for row in rows]), _mosaic([row.right for row in rows]), first.left_title, first.right_title
    )


def _mosaic(pictures: list[Image.Image]) -> Image.Image:
    """One picture of several, in rows as wide as they are high."""
    if len(pictures) == 1:
        return pictures[0]
    columns = max(round(len(pictures) ** 0.5), 1)
    width, height = max(each.width for each in pictures), max(each.height for each in pictures)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP), "white")
    for number, each in enumerate(pictures):
        sheet.paste(each, (number % columns * (width + _GAP), number // columns * (height + _GAP)))
    return sheet
