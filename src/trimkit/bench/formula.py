"""FLOPs and bytes of a request by arithmetic alone. A multiply and an add are two FLOPs, as torch's counter has it.

Only matrix products count; norms, activations, softmax and choosing tokens do not. Attention counts all pairs, causal or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trimkit.bench.sizes import (
    CLIP_PATCH,
    LanguageSizes,
    Sizes,
    TowerSizes,
    of_layers,
    sizes_of,
    sizes_of_shape,
)

__all__ = [
    "LanguageSizes",
    "LayerCall",
    "Sizes",
    "TowerSizes",
    "Work",
    "flops",
    "kv_bytes",
    "of_layers",
    "peaks",
    "sizes_of",
    "sizes_of_shape",
    "weights",
]


class LayerCall(NamedTuple):
    """One call of a layer of the vision tower: its number, and the pictures and tokens of each that it was given."""

    layer: int
    pictures: int
    length: int


@dataclass(frozen=True)
class Work:
    """What one request runs; lengths are tokens of one row, so that a layer that was skipped or shortened shows.

    Attributes:
        batch: rows, each with a picture.
        tower: every call of a layer of the vision tower. Pictures may go through it in groups, and in its middle each may be
            left with a length of its own.
        texts: the length of every question that the text tower reads.
        scored: patches that are compared with a question, in all.
        projected: what the projector is given, in all: tokens, or patches where it merges them.
        prefill: per row, the length in each layer of the language model.
        new_tokens: that are generated.
    """

    batch: int
    tower: Sequence[LayerCall] = ()
    texts: Sequence[int] = ()
    scored: int = 0
    projected: int = 0
    prefill: Sequence[int] = ()
    new_tokens: int = 1


def flops(sizes: Sizes, work: Work) -> dict[str, int]:
    """By stage: ``vision``, ``text``, ``select`` (scoring), ``project``, ``prefill`` and ``decode``."""
    lm, batch = sizes.language, work.batch
    head = 2 * batch * lm.width * lm.vocabulary
    decode = 0
    for step in range(work.new_tokens - 1):
        decode += head + batch * sum(_language_layer(lm, 1, length + step + 1) for length in work.prefill)
    text = 0
    if (reader := sizes.text) is not None:
        for length in work.texts:
            text += reader.layers * _tower_layer(reader, length) + 2 * reader.width * sizes.projection
    embedded = 2 * _patches(sizes, work) * sizes.patch * sizes.vision.width
    return {
        "vision": embedded + sum(_vision_layer(sizes, each) for each in work.tower),
        "text": text,
        "select": _scoring(sizes, work),
        "project": work.projected * _projector(sizes) // sizes.merge,
        "prefill": head + batch * sum(_language_layer(lm, length, length) for length in work.prefill),
        "decode": decode,
    }


def kv_bytes(sizes: Sizes, work: Work, element: int) -> int:
    """Keys and values after the last token, which itself is not stored; ``element`` bytes a number."""
    lm = sizes.language
    stored = sum(length + work.new_tokens - 1 for length in work.prefill)
    return 2 * work.batch * stored * lm.kv_heads * lm.head * element


def weights(sizes: Sizes) -> dict[str, int]:
    """Numbers in the ``model`` (tower, projector and language model, head not tied) and in the ``scorer``."""
    lm, seen = sizes.language, sizes.vision
    attention = 2 * lm.width * lm.head * (lm.heads + lm.kv_heads)
    language = lm.layers * (attention + 3 * lm.width * lm.inner + 2 * lm.width)
    language += 2 * lm.vocabulary * lm.width + lm.width
    hidden = sizes.hidden or lm.width
    projector = sizes.mergers * (_projector_weights(sizes) + hidden + lm.width)
    places = sizes.patches if sizes.merge == 1 else 0  # towers that merge turn their positions instead
    tower = seen.layers * _tower_weights(seen) + seen.width * (sizes.patch + places + 6)
    scorer = 0
    if sizes.text is not None:
        rows = sizes.text_vocabulary + sizes.text_positions + 2 + sizes.projection
        scorer = sizes.text.layers * _tower_weights(sizes.text) + sizes.text.width * rows
        # What CLIPModel has of the vision tower besides its layers, and the scale of its loss.
        own = sizes.clip or seen
        scorer += own.width * (sizes.patch + sizes.patches + 6 + sizes.projection) + 1
        scorer += own.layers * _tower_weights(own) if sizes.clip else 0
    return {"model": language + projector + tower, "scorer": scorer}


def peaks(sizes: Sizes, work: Work, element: int) -> dict[str, int]:
    """Bytes above the idle model, at their most: in the ``vision`` tower, and in the language model's ``prefill``.

    A layer holds most in its feed-forward part. The tower, of the pictures that are in it at a time: its inner width three
    times (the activation is a product), the layer's input, its sum with attention, the normed form of that, and the layer
    that was selected, which is held of the other pictures, too. The language model: gate, up and their product, the same
    three, the embeddings it was called with, and the rotations of its positions. ``pictures`` is what is held of them
    meanwhile: patch features and projected tokens, each as given and as handed on. ``activations`` has all of that, ``kv`` is
    the cache beside it; ``peak`` is the most that any moment holds.
    """
    lm, seen, batch = sizes.language, sizes.vision, work.batch
    first = min((each.layer for each in work.tower), default=0)
    patches = sum(each.pictures * each.length for each in work.tower if each.layer == first)
    at_once = max((each.pictures * each.length for each in work.tower), default=0)
    tokens = batch * max(work.prefill, default=0)
    pictures = 2 * (patches * seen.width + work.projected * lm.width) * element
    activations = tokens * (3 * lm.inner + 4 * lm.width + 2 * lm.head) * element + pictures
    kv = kv_bytes(sizes, Work(batch, prefill=work.prefill), element)
    vision = (at_once * (3 * seen.inner + 3 * seen.width) + patches * seen.width) * element
    grown = kv_bytes(sizes, work, element) + pictures
    return {
        "kv": kv,
        "activations": activations,
        "pictures": pictures,
        "prefill": kv + activations,
        "vision": vision,
        "peak": max(kv + activations, vision, grown),
    }


def _patches(sizes: Sizes, work: Work) -> int:
    """That are embedded, in all: what the tower's first layer is given, without class tokens."""
    first = min((each.layer for each in work.tower), default=0)
    given = sum(each.pictures * each.length for each in work.tower if each.layer == first)
    return given // sizes.crop * sizes.patches


def _vision_layer(sizes: Sizes, call: LayerCall) -> int:
    """A layer of the vision tower. Pictures that come in one row do not see each other."""
    tower, tokens = sizes.vision, call.pictures * call.length
    keys = min(call.length, sizes.crop)
    if tower.window and call.layer not in tower.full:
        keys = min(keys, tower.window)
    return tokens * _token(tower) + 4 * tokens * keys * tower.width


def _tower_layer(tower: TowerSizes, length: int) -> int:
    """Four projections and the feed-forward ones, and each token against each."""
    return length * _token(tower) + 4 * length * length * tower.width


def _token(tower: TowerSizes) -> int:
    """What a token costs beside attention."""
    return 8 * tower.width**2 + (6 if tower.gated else 4) * tower.width * tower.inner


def _tower_weights(tower: TowerSizes) -> int:
    matrices = 3 if tower.gated else 2
    return 4 * tower.width**2 + matrices * tower.width * tower.inner + 9 * tower.width + tower.inner


def _scoring(sizes: Sizes, work: Work) -> int:
    """Comparing patches with the question, and the CLIP that looks at them where it is not the model's own tower."""
    clip = sizes.clip
    if clip is None or not work.scored:
        return work.scored * 2 * sizes.projection * (sizes.vision.width + 1)
    pictures = _patches(sizes, work) // (sizes.crops * sizes.patches)
    look = 0
    for patches in sizes.clip_patches:
        look += patches * 2 * (CLIP_PATCH * clip.width + sizes.projection * (clip.width + 1))
        look += clip.layers * _tower_layer(clip, patches + 1)
    return pictures * look


def _projector_weights(sizes: Sizes) -> int:
    """Two matrices."""
    hidden = sizes.hidden or sizes.language.width
    return sizes.vision.width * sizes.merge * hidden + hidden * sizes.language.width


def _projector(sizes: Sizes) -> int:
    """What the projectors take for one token."""
    return 2 * sizes.mergers * _projector_weights(sizes)


def _language_layer(lm: LanguageSizes, length: int, keys: int) -> int:
    """Projections of queries, keys, values and output; the gated feed-forward part; attention."""
    projections = 4 * lm.width * lm.head * (lm.heads + lm.kv_heads)
    return length * (projections + 6 * lm.width * lm.inner) + 4 * length * keys * lm.heads * lm.head
