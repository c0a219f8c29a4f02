"""FLOPs and bytes of a LLaVA's request by arithmetic alone. A multiply and an add are two FLOPs, as torch's counter has it.

Only matrix products count; norms, activations, softmax and choosing tokens do not. Attention counts all pairs, causal or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
    "weights",
]


@dataclass(frozen=True)
class TowerSizes:
    """A CLIP tower, of pictures or of text."""

    layers: int
    width: int
    inner: int


@dataclass(frozen=True)
class LanguageSizes:
    """A Llama; ``heads`` and ``kv_heads`` of ``head`` numbers each."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int


@dataclass(frozen=True)
class Sizes:
    """All that the formulas need of a model; ``patch`` is in numbers; ``text`` is None where nothing reads the question."""

    vision: TowerSizes
    language: LanguageSizes
    patches: int
    patch: int
    text: TowerSizes | None = None
    text_vocabulary: int = 0
    text_positions: int = 0
    projection: int = 0


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
        projected: tokens that go through the projector, in all.
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


def sizes_of(config: Any, text_config: Any = None) -> Sizes | None:
    """Read from a LLaVA's config, and the config of CLIP's text tower; None for another architecture."""
    if getattr(config, "model_type", None) != "llava" or config.vision_config.model_type != "clip_vision_model":
        return None
    seen, said = config.vision_config, config.text_config
    if said.model_type != "llama":
        return None
    heads = said.num_attention_heads
    language = LanguageSizes(
        layers=said.num_hidden_layers,
        width=said.hidden_size,
        inner=said.intermediate_size,
        heads=heads,
        kv_heads=getattr(said, "num_key_value_heads", None) or heads,
        head=getattr(said, "head_dim", None) or said.hidden_size // heads,
        vocabulary=said.vocab_size,
    )
    text = None
    if text_config is not None:
        text = TowerSizes(text_config.num_hidden_layers, text_config.hidden_size, text_config.intermediate_size)
    return Sizes(
        vision=TowerSizes(seen.num_hidden_layers, seen.hidden_size, seen.intermediate_size),
        language=language,
        patches=(seen.image_size // seen.patch_size) ** 2,
        patch=seen.num_channels * seen.patch_size**2,
        text=text,
        text_vocabulary=getattr(text_config, "vocab_size", 0),
        text_positions=getattr(text_config, "max_position_embeddings", 0),
        projection=getattr(text_config, "projection_dim", 0) or 0,
    )


def of_layers(sizes: Sizes, layers: int) -> Sizes:
    """The same model with so many layers in its language model."""
    return replace(sizes, language=replace(sizes.language, layers=layers))


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
    embedded = 2 * sizes.patches * sizes.patch * sizes.vision.width if work.tower else 0
    return {
        "vision": batch * embedded
        + sum(each.pictures * _tower_layer(sizes.vision, each.length) for each in work.tower),
        "text": text,
        "select": work.scored * (2 * sizes.vision.width * sizes.projection + 2 * sizes.projection),
        "project": 2 * work.projected * lm.width * (sizes.vision.width + lm.width),
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
    projector = seen.width * lm.width + lm.width * lm.width + 2 * lm.width
    tower = seen.layers * _tower_weights(seen) + seen.width * (sizes.patch + sizes.patches + 6)
    scorer = 0
    if sizes.text is not None:
        rows = sizes.text_vocabulary + sizes.text_positions + 2 + sizes.projection
        scorer = sizes.text.layers * _tower_weights(sizes.text) + sizes.text.width * rows
        # What CLIPModel has of the vision tower besides its layers, and the scale of its loss.
        scorer += seen.width * (sizes.patch + sizes.patches + 6 + sizes.projection) + 1
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
    patches = batch * max((each.length for each in work.tower), default=0)
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


def _tower_layer(tower: TowerSizes, length: int) -> int:
    """Four projections and two feed-forward ones, and each token against each."""
    return length * (8 * tower.width**2 + 4 * tower.width * tower.inner) + 4 * length * length * tower.width


def _tower_weights(tower: TowerSizes) -> int:
    return 4 * tower.width**2 + 2 * tower.width * tower.inner + 9 * tower.width + tower.inner


def _language_layer(lm: LanguageSizes, length: int, keys: int) -> int:
    """Projections of queries, keys, values and output; the gated feed-forward part; attention."""
    projections = 4 * lm.width * lm.head * (lm.heads + lm.kv_heads)
    return length * (projections + 6 * lm.width * lm.inner) + 4 * length * keys * lm.heads * lm.head
