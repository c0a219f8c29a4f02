"""Patches that see only the padding of a square: found in the pixels, and never chosen (``padding="skip"``).

A wide picture that a processor makes square has rows of one color above and below; a third of its tokens can see nothing else.
Padding is a band of whole rows or columns along an edge whose pixels are all of one color, that of the picture's corner: so
is a margin, and what is drawn on neither is lost. A picture of one color alone has none.

The method then chooses among the other patches as if they were the picture: its grid is what lies inside the bands, quartiles
and novelty are those of real patches, and the aggregated token stands for real patches. A fixed budget keeps as many tokens as
it keeps of the square, or all real patches where there are fewer. A method inside the language model never gets padding; one
that changes the way through the tower (``resize``, ``flowcut``) keeps fewer tokens, those of its own that are no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimkit.core.budget import Budget
from trimkit.core.geometry import View
from trimkit.core.signals import is_per_token
from trimkit.core.types import EncoderProfile, ImageTokens, Selection
from trimkit.methods import Method, get_method
from trimkit.models import Family, ModelInputs
from trimkit.pipeline.text_free import select_asked
from trimkit.scorers import Scorer

__all__ = ["inner_box", "mark_padding", "real_tokens", "select_real"]

_SAME = 0.01  # of a normalised pixel: half of one step of 255


def mark_padding(
    family: Family, model: Any, arguments: ModelInputs, images: Sequence[ImageTokens]
) -> list[ImageTokens]:
    """The images with ``alive`` false at tokens that see only padding.

    Args:
        family, model: what serves the images, and the model.
        arguments: of the encoder.
        images: their tokens, as many as ``family.split`` gives parts.

    Raises:
        UnsupportedError: the family does not know where its tokens look.
    """
    if family.medium == "video":
        return list(images)
    parts = family.split(model, arguments)
    return [_marked(image, family.views(model, part, image)) for part, image in zip(parts, images, strict=True)]


def _marked(image: ImageTokens, views: Sequence[View]) -> ImageTokens:
    seen, blank = torch.zeros(len(image), dtype=torch.bool), torch.ones(len(image), dtype=torch.bool)
    for view in views:
        left, top, right, bottom = inner_box(view.pixels)
        x0, y0, x1, y1 = view.boxes.cpu().unbind(-1)
        outside = (x1 <= left) | (x0 >= right) | (y1 <= top) | (y0 >= bottom)
        tokens = view.tokens.cpu()
        seen[tokens] = True
        blank[tokens] &= outside
    alive = ~(seen & blank)
    if bool(alive.all()):
        return image
    return replace(image, alive=alive if image.alive is None else image.alive.cpu() & alive)


def inner_box(pixels: Tensor) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is no padding in ``[C, H, W]`` pixels; all of it where nothing else is left."""
    same = ((pixels - pixels[:, :1, :1]).abs() <= _SAME).all(dim=0).cpu()
    height, width = same.shape
    if bool(same.all()):
        return 0, 0, width, height
    rows, columns = (~same.all(dim=1)).nonzero().flatten(), (~same.all(dim=0)).nonzero().flatten()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def real_tokens(image: ImageTokens) -> tuple[ImageTokens, Tensor]:
    """The image without tokens that are not ``alive``, and which of its tokens those are, ``[k]`` int64."""
    if image.alive is None:
        return image, torch.arange(len(image))
    at = image.alive.nonzero().flatten()
    here = at.to(image.features.device)

    def cut(each: Tensor) -> Tensor:
        return each.index_select(0, here.to(each.device))

    signals = {name: cut(each) if is_per_token(name) else each for name, each in image.signals.items()}
    real = replace(
        image,
        features=cut(image.features),
        grid=_inner_grid(image.alive, image.grid),
        layers=tuple(cut(each) for each in image.layers),
        views=tuple(_inner_view(view, image.alive) for view in image.views),
        cls_attention=None if image.cls_attention is None else cut(image.cls_attention),
        keys=None if image.keys is None else cut(image.keys),
        signals=signals,
        alive=None,
    )
    return real, at


def select_real(
    images: Sequence[ImageTokens],
    asked: Sequence[str | None],
    method: Method,
    scorer: Scorer | None,
    profile: EncoderProfile,
    rows: Sequence[int],
) -> list[Selection]:
    """``trimkit.pipeline.text_free.select_asked`` among the tokens that are ``alive``; what it gives is of all tokens."""
    cut = [real_tokens(image) for image in images]
    found: dict[int, Selection] = {}
    for chooser, group in _by_budget(method, images):
        real, said, where = [cut[i][0] for i in group], [asked[i] for i in group], [rows[i] for i in group]
        for i, selection in zip(group, select_asked(real, said, chooser, scorer, profile, where), strict=True):
            found[i] = _of_all(selection, cut[i][1], len(images[i]))
    return [found[i] for i in range(len(images))]


def _by_budget(method: Method, images: Sequence[ImageTokens]) -> list[tuple[Method, list[int]]]:
    """Images that the same method chooses of: a fraction is one of all tokens, padding included."""
    if method.budget.kind != "ratio" or method.share == "prompt":
        return [(method, list(range(len(images))))]
    groups: dict[int, list[int]] = {}
    for i, image in enumerate(images):
        groups.setdefault(len(image), []).append(i)
    return [
        (get_method(method, budget=Budget("count", max(method.fixed_tokens(total), 1))), group)
        for total, group in groups.items()
    ]


def _of_all(selection: Selection, at: Tensor, total: int) -> Selection:
    """A selection of the tokens ``at`` as one of all ``total``."""
    if len(at) == total:
        return selection
    mixing = selection.mixing
    return replace(
        selection,
        indices=at.to(selection.indices.device)[selection.indices],
        total=total,
        scores=_spread(selection.scores, at, total),
        relevance=_spread(selection.relevance, at, total),
        weights=None if selection.weights is None else _spread(selection.weights, at, total, 0.0),
        mixing=None
        if mixing is None
        else mixing.new_zeros(len(mixing), total).index_copy(1, at.to(mixing.device), mixing),
    )


def _spread(values: Tensor | None, at: Tensor, total: int, rest: float | None = None) -> Tensor | None:
    """Values of all tokens; those that are padding get the least one there is, or ``rest``."""
    if values is None:
        return None
    filled = values.new_full((total,), 0.0 if rest is not None or not len(values) else float(values.min()))
    return filled.index_copy(0, at.to(values.device), values)


def _inner_grid(alive: Tensor, grid: tuple[int, int] | None) -> tuple[int, int] | None:
    """The grid of what is left, where that is one."""
    if grid is None:
        return None
    cells = alive.view(grid)
    rows, columns = cells.any(dim=1), cells.any(dim=0)
    whole = bool((cells == rows[:, None] & columns[None, :]).all())
    return (int(rows.sum()), int(columns.sum())) if whole else None


def _inner_view(view: View, alive: Tensor) -> View:
    places = alive.long().cumsum(0) - 1
    tokens = view.tokens.cpu()
    kept = alive[tokens]
    boxes = view.boxes[kept.to(view.boxes.device)]
    return replace(view, tokens=places[tokens[kept]].to(view.tokens.device), boxes=boxes)
