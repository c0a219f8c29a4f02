"""Selections put together: one budget for all images of a prompt, and one image's tokens for several questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trimkit.core.signals import is_per_token
from trimkit.core.types import ImageTokens, Selection
from trimkit.errors import ConfigError

__all__ = ["merge_images", "split_selection", "union"]


def merge_images(images: Sequence[ImageTokens]) -> ImageTokens:
    """The images' tokens as if they were one image's; a single image stays as it is."""
    if len(images) == 1:
        return images[0]
    return ImageTokens(
        features=torch.cat([image.features for image in images]),
        key="+".join(image.key for image in images),
        cls_attention=_joined([image.cls_attention for image in images]),
        keys=_joined([image.keys for image in images]),
        signals=_joined_signals(images),
    )


def _joined_signals(images: Sequence[ImageTokens]) -> dict[str, Tensor]:
    """Those that all have: of tokens one behind the other; of the question the first's; a class token is of one image alone."""
    found = {}
    for name in images[0].signals:
        parts = [image.signals.get(name) for image in images]
        joined = _joined(parts) if is_per_token(name) else (None if name == "cls_state" else parts[0])
        if joined is not None:
            found[name] = joined
    return found


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.cat(given) if len(given) == len(parts) else None


def split_selection(selection: Selection, totals: Sequence[int], *, fixed: bool) -> list[Selection]:
    """What was chosen of merged images, image by image.

    Every image keeps at least its best token, so that none disappears, and has an aggregated token of its own where the method
    makes them and something of it was dropped.

    Args:
        selection: of the merged image.
        totals: tokens of each image.
        fixed: whether the budget is a number that must hold in all: the lowest-ranked tokens then pay for what is added.

    Raises:
        ConfigError: the method merges tokens, which would mix one image into another, or gives them in an order of its own.
    """
    if len(totals) == 1:
        return [selection]
    if not selection.plain:
        raise ConfigError(
            "a method that merges or reorders tokens cannot share one budget among the images of a prompt: leave share= at "
            "'image'"
        )
    device = selection.indices.device
    keep = torch.zeros(selection.total, dtype=torch.bool, device=device)
    keep[selection.indices] = True
    scores = torch.zeros(selection.total, device=device) if selection.scores is None else selection.scores.float()
    best = _best(scores, totals)
    keep[best] = True
    budget = len(selection)
    while fixed and int(keep.sum()) + _extra(keep, totals, selection.aggregated) > budget:
        removable = keep.clone()
        removable[best] = False
        if not bool(removable.any()):
            break
        keep[scores.masked_fill(~removable, torch.inf).argmin()] = False
    room = budget - int(keep.sum()) if fixed else len(totals)
    parts = list(zip(torch.split(keep, list(totals)), _starts(totals), strict=True))
    first = sorted(range(len(parts)), key=lambda i: -_highest(scores, *parts[i]))[: max(room, 0)]
    return [_part(selection, part, at, selection.aggregated and i in first) for i, (part, at) in enumerate(parts)]


def _highest(scores: Tensor, part: Tensor, start: int) -> float:
    """An image's claim to an aggregated token where there is no room for all: nothing where it has nothing dropped."""
    if bool(part.all()):
        return float("-inf")
    return float(scores[start : start + len(part)].max())


def _starts(totals: Sequence[int]) -> list[int]:
    return [sum(totals[:i]) for i in range(len(totals))]


def _best(scores: Tensor, totals: Sequence[int]) -> Tensor:
    """The highest-ranked token of each image that has any."""
    parts = zip(torch.split(scores, list(totals)), _starts(totals), strict=True)
    best = [start + int(part.argmax()) for part, start in parts if len(part)]
    return torch.tensor(best, dtype=torch.int64, device=scores.device)


def _extra(keep: Tensor, totals: Sequence[int], aggregated: bool) -> int:
    """Aggregated tokens: one for every image of which something is dropped."""
    if not aggregated:
        return 0
    return sum(not bool(part.all()) for part in torch.split(keep, list(totals)) if len(part))


def _part(selection: Selection, keep: Tensor, start: int, aggregated: bool) -> Selection:
    def cut(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[start : start + len(keep)]

    return replace(
        selection,
        indices=keep.nonzero().squeeze(1),
        total=len(keep),
        aggregated=aggregated and len(keep) > 0 and not bool(keep.all()),
        scores=cut(selection.scores),
        relevance=cut(selection.relevance),
        weights=cut(selection.weights),
    )


def union(selections: Sequence[Selection]) -> Selection:
    """What any of several questions keeps of one image; scores and relevance are those for the last.

    Raises:
        ConfigError: tokens are merged, and otherwise for one question than for another.
    """
    last = selections[-1]
    if all(_same(each, last) for each in selections[:-1]):
        return last
    if not all(selection.plain for selection in selections):
        raise ConfigError(
            "tokens merged or reordered for several questions have no union: use turns='refresh' or turns='first'"
        )
    keep = torch.zeros(last.total, dtype=torch.bool, device=last.indices.device)
    keep[torch.cat([selection.indices for selection in selections])] = True
    indices, rest = keep.nonzero().squeeze(1), not bool(keep.all())
    return replace(last, indices=indices, aggregated=rest and any(selection.aggregated for selection in selections))


def _same(one: Selection, other: Selection) -> bool:
    """Whether both give the same tokens."""
    if one.plain or other.plain or (one.aggregated, one.class_token) != (other.aggregated, other.class_token):
        return False
    pairs = (one.ordered, other.ordered), (one.mixing, other.mixing)
    return all((a is None and b is None) or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)
