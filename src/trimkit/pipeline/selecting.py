"""From image tokens and questions to what is kept: pad images to a batch, score, select, gather features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.layer_read import LayerRead
from trimkit.core.sharing import merge_images, split_selection
from trimkit.core.transfer import beside, padded, stacked, upload
from trimkit.core.types import EncoderProfile, ImageTokens, Selection, TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods import Method
from trimkit.scorers import Scorer

__all__ = [
    "make_batch",
    "no_scorer",
    "reduced_features",
    "reduced_image",
    "reduced_images",
    "relevance_of",
    "select_by_attention",
    "select_everything",
    "select_tokens",
]


def select_tokens(
    images: Sequence[ImageTokens],
    relevance: Sequence[Tensor] | None,
    queries: Sequence[str | None],
    method: Method,
    profile: EncoderProfile,
    rows: Sequence[int] | None = None,
) -> list[Selection]:
    """Choose the tokens of every image.

    Args:
        images: B images.
        relevance: B tensors ``[N_i]`` of raw similarity, or None.
        queries: B questions (or None), which name the draw of a random method.
        method: what chooses.
        profile: how to read ``relevance``.
        rows: the prompt of each image, where the method shares its budget among a prompt's images.
    """
    if not images:
        return []
    with torch.no_grad():
        if method.share != "prompt" or method.keeps_all or rows is None or len(set(rows)) == len(rows):
            return method.select(make_batch(images, relevance, queries, profile))
        groups = [[i for i, each in enumerate(rows) if each == row] for row in dict.fromkeys(rows)]
        merged = [merge_images([images[i] for i in group]) for group in groups]
        joined = None if relevance is None else [torch.cat([relevance[i] for i in group]) for group in groups]
        asked = [queries[group[0]] for group in groups]
        chosen = method.select(make_batch(merged, joined, asked, profile))
        fixed = method.budget.kind in ("ratio", "count")
        found: dict[int, Selection] = {}
        for group, selection in zip(groups, chosen, strict=True):
            parts = split_selection(selection, [len(images[i]) for i in group], fixed=fixed)
            found.update(zip(group, parts, strict=True))
        return [found[i] for i in range(len(images))]


def select_by_attention(
    attention: Sequence[Tensor],
    features: Sequence[Tensor],
    rows: Sequence[int],
    method: Method,
    read: LayerRead | None = None,
    signals: Sequence[Mapping[str, Tensor]] | None = None,
) -> list[Selection]:
    """Choose the tokens of every image inside the language model.

    Args:
        attention: B tensors ``[N_i]`` of what the last prompt token attends to.
        features: B tensors ``[N_i, D]`` of hidden states.
        rows: the prompt of each image, where the method shares its budget among a prompt's images.
        method: what chooses, of ``stage`` ``llm``.
        read: at which of its cuts, and what else it reads there of each image.
        signals: what it has asked for beside attention, of every image.
    """
    shared = method.share == "prompt" and not method.keeps_all
    groups = [[i for i, each in enumerate(rows) if each == row] for row in dict.fromkeys(rows)]
    groups = groups if shared else [[i] for i in range(len(rows))]
    given: Sequence[Mapping[str, Tensor]] = [{}] * len(rows) if signals is None else signals
    images = [ImageTokens(each, signals=own) for each, own in zip(features, given, strict=True)]
    tokens = [merge_images([images[i] for i in group]) for group in groups]
    batch = make_batch(tokens, None, [None] * len(groups), EncoderProfile())
    joined = [torch.cat([attention[i] for i in group]) for group in groups]
    chosen = method.select(replace(batch, attention=padded(joined), layer=_of_groups(read, groups)))
    fixed = method.budget.kind in ("ratio", "count")
    found: dict[int, Selection] = {}
    for group, selection in zip(groups, chosen, strict=True):
        found.update(
            zip(group, split_selection(selection, [len(attention[i]) for i in group], fixed=fixed), strict=True)
        )
    return [found[i] for i in range(len(rows))]


def _of_groups(read: LayerRead | None, groups: Sequence[Sequence[int]]) -> LayerRead | None:
    """What a cut reads, for images that are ranked together."""
    if read is None or all(len(group) == 1 for group in groups):
        return read
    if read.rows:
        raise ConfigError("text tokens' attention is read image by image: leave share= at 'image'")
    return replace(read, totals=tuple(sum(read.totals[i] for i in group) for group in groups))


def select_everything(images: Sequence[ImageTokens]) -> list[Selection]:
    """All tokens of every image."""
    return [Selection(torch.arange(len(image), device=image.features.device), len(image)) for image in images]


def no_scorer(method: Method) -> ConfigError:
    """The error of a method that reads the text on a model whose text tower nobody named."""
    return ConfigError(
        f"method {method.name!r} needs a text scorer and this model has none that is known: pass scorer= a CLIP "
        "or SigLIP checkpoint such as 'openai/clip-vit-large-patch14-336', or choose a method that does not read the text"
    )


def relevance_of(
    images: Sequence[ImageTokens], queries: Sequence[str | None], method: Method, scorer: Scorer | None
) -> list[Tensor] | None:
    """Raw similarity per image, or None where the method does not read the text.

    Raises:
        ConfigError: the method reads the text and there is no scorer or no question.
    """
    if not method.needs_relevance or not images:
        return None
    if scorer is None:
        raise no_scorer(method)
    asked = [query for query in queries if query is not None]
    if len(asked) != len(images):
        raise ConfigError(f"method {method.name!r} needs a question for every image: pass query= or a processor")
    with torch.no_grad():
        cosine = method.normalize_relevance(method.profile or scorer.profile)
        by_segment: Any = getattr(scorer, "segment_similarity", None) if method.cuts_text else None
        if by_segment is None:
            found = scorer.similarity(images, asked, normalize=cosine, truncate=method.truncates_text)
        else:
            found = by_segment(images, asked)
    # NaN ranks last whatever the encoder's sign.
    return [
        row if image.alive is None else row.masked_fill(~image.alive.to(row.device), torch.nan)
        for row, image in zip(found, images, strict=True)
    ]


def make_batch(
    images: Sequence[ImageTokens],
    relevance: Sequence[Tensor] | None,
    queries: Sequence[str | None],
    profile: EncoderProfile,
) -> TokenBatch:
    """Pad images to one batch."""
    lengths = tuple(len(image) for image in images)
    alive = tuple(image.alive_count for image in images if image.alive_count is not None)
    features = padded([image.features for image in images]).detach()
    device, width = features.device, features.shape[1]
    mask = torch.ones(features.shape[:2], dtype=torch.bool, device=device)
    if min(lengths) < width:
        mask = torch.arange(width, device=device) < upload(lengths, device).unsqueeze(1)
    attention, keys = (_padded([getattr(i, name) for i in images], device) for name in ("cls_attention", "keys"))
    return TokenBatch(
        features=features,
        mask=mask,
        relevance=None if relevance is None else _padded(relevance, device),
        profile=profile,
        grids=tuple(image.grid for image in images),
        keys=tuple(f"{image.key}|{query or ''}" for image, query in zip(images, queries, strict=True)),
        cls_attention=attention,
        tower_keys=keys,
        signals=_signals(images, device),
        lengths=lengths,
        queries=tuple(queries),
        alive_counts=alive if len(alive) == len(images) else None,
    )


def _padded(rows: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    """A signal of all images, or None where one lacks it."""
    given = [beside(row, device) for row in rows if row is not None]
    return padded(given).detach() if len(given) == len(rows) else None


def _signals(images: Sequence[ImageTokens], device: torch.device) -> dict[str, tuple[Tensor, ...]]:
    """By name, those that all images have."""
    names = [name for name in (images[0].signals if images else ()) if all(name in image.signals for image in images)]
    return {name: tuple(beside(image.signals[name].detach(), device) for image in images) for name in names}


def reduced_images(images: Sequence[ImageTokens], selections: Sequence[Selection]) -> list[ImageTokens]:
    """The images with what is kept of their features, and of those for deeper layers; images of one length together."""
    done = dict(enumerate(images))
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, (image, selection) in enumerate(zip(images, selections, strict=True)):
        if selection.keeps_all:
            continue
        if not selection.plain or image.alive is not None:
            done[i] = _reduced_alone(image, selection)
            continue
        shapes = tuple((each.shape, each.dtype, each.device) for each in (image.features, *image.layers))
        groups.setdefault((selection.aggregated, selection.weights is None, *shapes), []).append(i)
    for rows in groups.values():
        mine = [selections[i] for i in rows]
        layers = zip(*((images[i].features, *images[i].layers) for i in rows), strict=True)
        reduced = [_reduced(list(each), mine) for each in layers]
        for i, each in zip(rows, zip(*reduced, strict=True), strict=True):
            done[i] = _with_features(images[i], each)
    return [done[i] for i in range(len(images))]


def reduced_image(image: ImageTokens, selection: Selection) -> ImageTokens:
    """The image with what is kept of its features, and of those for deeper layers."""
    return reduced_images([image], [selection])[0]


def reduced_features(image: ImageTokens, selection: Selection) -> Tensor:
    """``[k (+2), D]`` kept features in order, a kept class token first, the aggregated token last. Gradients flow into all."""
    return reduced_image(image, selection).features


def _with_features(image: ImageTokens, layers: Sequence[Tensor]) -> ImageTokens:
    features, *deeper = layers
    kept = replace(image, features=features, layers=tuple(deeper), views=(), alive=None, alive_count=None)
    return replace(kept, cls_attention=None, keys=None, signals={})


def _reduced(features: Sequence[Tensor], selections: Sequence[Selection]) -> list[Tensor]:
    """Kept features of images of one length, in raster order and as they are."""
    whole = stacked(features)
    images, total, _ = whole.shape
    device, counts = whole.device, [len(each.indices) for each in selections]
    places = beside(selections[0].indices, device)
    if images > 1:
        starts = upload(np.repeat(np.arange(images) * total, counts), device)
        places = torch.cat([beside(each.indices, device) for each in selections]) + starts
    kept = whole.flatten(0, 1).index_select(0, places)
    if not selections[0].aggregated:
        return [kept] if images == 1 else list(torch.split(kept, counts))
    keep = torch.zeros(images * total, dtype=torch.bool, device=device).index_fill(0, places, True).view(images, total)
    given = [beside(each.weights, device) for each in selections if each.weights is not None]
    rest = F.aggregate(whole, keep, None, stacked(given) if given else None)
    if images == 1:
        return [torch.cat([kept, rest])]
    ends = np.cumsum(np.array(counts) + 1) - 1
    order = np.empty(sum(counts) + images, dtype=np.int64)
    order[ends] = sum(counts) + np.arange(images)
    order[np.setdiff1d(np.arange(len(order)), ends)] = np.arange(sum(counts))
    joined = torch.cat([kept, rest]).index_select(0, upload(order, device))
    return list(torch.split(joined, [count + 1 for count in counts]))


def _reduced_alone(image: ImageTokens, selection: Selection) -> ImageTokens:
    """One image whose kept tokens are merged, reordered or joined by the class token, or whose tower has dropped patches.

    Raises:
        ConfigError: the class token is kept, and the image does not hold it.
    """
    if selection.class_token and (image.layers or "cls_state" not in image.signals):
        raise ConfigError(
            "the class token is kept and these image tokens have none: pass its state as signals['cls_state']"
        )
    features, *deeper = (_rows_alone(each, selection, image.alive) for each in (image.features, *image.layers))
    if selection.class_token:
        features = torch.cat([image.signals["cls_state"].to(features)[None], features])
    return _with_features(image, (features, *deeper))


def _rows_alone(features: Tensor, selection: Selection, alive: Tensor | None) -> Tensor:
    """The kept rows, and what stands for the dropped ones."""
    device, indices = features.device, beside(selection.indices, features.device)
    mixed = None if selection.mixing is None else _mixed(features, selection.mixing)
    kept = features.index_select(0, indices) if mixed is None else mixed[: len(indices)]
    kept = kept if selection.order is None else kept.index_select(0, beside(selection.order, device))
    if not selection.aggregated:
        return kept
    if mixed is not None and len(mixed) > len(indices):
        return torch.cat([kept, mixed[len(indices) :]])
    keep = torch.zeros(1, len(features), dtype=torch.bool, device=device).index_fill(1, indices, True)
    weights = None if selection.weights is None else beside(selection.weights, device).unsqueeze(0)
    # What a tower dropped midway has no features that could be averaged with the others'.
    real = None if alive is None else beside(alive, device).unsqueeze(0)
    return torch.cat([kept, F.aggregate(features.unsqueeze(0), keep, real, weights)])


def _mixed(features: Tensor, mixing: Tensor) -> Tensor:
    """``[k, D]`` rows of ``mixing`` applied: summed in float32 (float64 stays), given back in the features' dtype."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    with torch.autocast(features.device.type, enabled=False):
        return (mixing.to(wide) @ wide).to(features.dtype)
