"""``trimkit.reduce`` and ``trimkit.attach``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from trimkit.attach.attachment import Attachment
from trimkit.core.choices import OnUnreduced, Padding, Positions, QueryFrom, TurnPolicy
from trimkit.core.confidence import Fallback
from trimkit.engines import TowerEngine
from trimkit.methods import Method
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.scorers import Scorer

__all__ = ["attach", "reduce"]


def reduce(
    model: Any,
    processor: Any = None,
    *,
    method: str | Method = "trim",
    scorer: Scorer | nn.Module | str | Path | None = None,
    query: str | Sequence[str] | None = None,
    cache_images: int | FeatureCache = 32,
    turns: TurnPolicy = "refresh",
    positions: Positions = "auto",
    query_from: QueryFrom = "question",
    full_logits: bool = False,
    tower_keep: float | None = None,
    tower_layer: int | None = None,
    pad_to_multiple_of: int = 1,
    buckets: Sequence[int] = (),
    padding: Padding = "keep",
    on_unreduced: OnUnreduced = "error",
    vision_engine: str | TowerEngine | None = None,
    fallback: str | Mapping[str, Any] | Fallback | None = None,
    **options: Any,
) -> Attachment:
    """Reduce a model's image tokens within a ``with`` block.

    Args:
        model: a transformers vision-language model, or a PEFT model around one.
        processor: its processor; reads the question back from the prompt. Not needed with ``query`` or without text.
        method: a name from ``trimkit methods`` or a ``Method``.
        scorer: where text relevance comes from: a ``Scorer``, a ``CLIPModel``, a directory or a hub id of one, a folder that
            ``trimkit fit`` wrote, or a scorer's name. By default what the checkpoint's ``trimkit.json`` names, else the public
            CLIP that the family's tower was taken from. What is loaded from a checkpoint stays with the model, for later
            blocks.
        query: the question (one for all rows, or one a row); by default the last user turn of each prompt. A call may
            override it: ``model.generate(..., query=[...])``.
        cache_images: how many images' (or videos') features are held, by content, on the model's device (LLaVA-1.5: 2.4 MB each
            in half precision); 0 holds none. They are held with the model, for later blocks with the same number as well, until
            ``clear_cache()`` or ``trimkit.release(model)``. A ``trimkit.FeatureCache`` is used as it is, by all attachments of
            one model that it is passed to. Weights changed through ``.data`` go unnoticed: call ``clear_cache()`` then.
        turns: what a later question of a conversation sees of an earlier picture: the tokens relevant to it (``refresh``),
            those chosen for the first question about the picture (``first``), or for any question so far (``union``). With a
            cache of earlier turns (``cache=`` or ``past_key_values=``), what is the same at the head of the prompt is not run
            again.
        positions: ``contiguous`` numbers the tokens that are left, ``original`` leaves each its place in the full prompt.
            ``auto``: contiguous; original where positions are 3-D (M-RoPE).
        query_from: what is read from a prompt where no ``query`` is given. ``question``: no answer, in training either.
            ``conversation-with-answers``: all that both sides say, as the released training recipe does; there the answers
            that are to be learnt choose the patches, which they cannot do when the model is asked.
        full_logits: direct calls return logits as long as the prompt was passed, at every text token those that it gave: for a
            loss or a metric outside the model, which compares them with uncut labels.
        tower_keep: share of the patches that the vision tower is run to its end on: around what is most relevant to the
            question by its states at ``tower_layer`` (by default after two fifths of its layers). LLaVA-1.5 only. Faster, at a
            cost in accuracy that is to be measured for the model; off by default.
        pad_to_multiple_of: pads the shortened prompt (masked) to a multiple of so many columns, as far as the full one is long.
            For ``torch.compile`` and static caches, where each new length costs a compilation: with 64, pictures come in a
            handful of lengths.
        buckets: lengths that prompts with pictures are padded (masked) to: the smallest that the shortened prompt fits into; a
            longer one keeps its length. With ``Attachment.compiled`` each bucket is compiled once.
        padding: ``skip`` never chooses a patch that sees only the padding of a square, which wide pictures are made into; the
            budget then goes to the others. For pictures whose processor pads (LLaVA-1.5's own); off by default.
        on_unreduced: what happens to a call that brings images and cannot be reduced (packed sequences, a mask of its own, a
            video that is not covered ...): ``error`` refuses it, ``warn`` and ``stock`` run it with all of its image tokens,
            with a warning or without.
        vision_engine: ``openvino`` or ``onnxruntime`` runs the vision tower instead of torch, in float32 on the CPU; LLaVA-1.5
            and VipLLaVA. Its graph is made once and held beside the checkpoint. When the model is attached, two pictures go
            through both, and where the method would keep other patches, that is refused. It is loaded for as long as the model
            is attached; pass a ``trimkit.engines.TowerEngine`` to keep it loaded from one ``with`` block to the next.
        fallback: answers of whose first tokens the model is unsure are asked for again with all image tokens: ``full``, or the
            fields of a ``trimkit.Fallback`` (threshold, how many tokens are looked at, budgets between). In ``generate`` alone;
            ``report.rungs`` says what was tried. ``trimkit calibrate --risk`` finds the threshold that keeps a promise.
        **options: fields of the method, for example ``budget=0.2``.

    Raises:
        UnknownNameError, ConfigError: the method or its options.
        UnsupportedError: the model takes no pre-encoded images.
        ModelError: the scorer's checkpoint (on first use), or a tower that ``vision_engine`` does not compute (when attached).
        MissingDependencyError: ``vision_engine`` is not installed.
    """
    return Attachment(
        model,
        processor,
        method=method,
        scorer=scorer,
        query=query,
        cache_images=cache_images,
        turns=turns,
        positions=positions,
        query_from=query_from,
        full_logits=full_logits,
        tower_keep=tower_keep,
        tower_layer=tower_layer,
        pad_to_multiple_of=pad_to_multiple_of,
        buckets=tuple(buckets),
        padding=padding,
        on_unreduced=on_unreduced,
        vision_engine=vision_engine,
        fallback=fallback,
        **options,
    )


def attach(model: Any, processor: Any = None, **arguments: Any) -> Attachment:
    """Reduce a model's image tokens until ``detach()``. Takes what ``reduce`` takes."""
    return Attachment(model, processor, **arguments).attach()
