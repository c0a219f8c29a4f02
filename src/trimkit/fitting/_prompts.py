"""Prompts whose picture is given as features: whole, or with some of its tokens, and gradients to what stands for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimkit.core.prompt_layout import plan_prompt
from trimkit.core.types import ImageTokens, Selection
from trimkit.models import Family
from trimkit.pipeline.padding import padding_id, plain_positions
from trimkit.pipeline.selecting import reduced_images

__all__ = ["Prompt", "answer_logp", "as_float", "joined", "kept_embeddings"]

Prompt = dict[str, Tensor]
"""Inputs of one prompt without padding and pixels: ``input_ids`` ``[L]``, ``answer`` ``[T]``, and what else the model takes."""


def joined(prompts: Sequence[Prompt], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Prompts with their answers but for the last token, padded on the left to a batch."""
    rows = [torch.cat([each["input_ids"], each["answer"][:-1].to(each["input_ids"])]) for each in prompts]
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0), value=pad) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(width) >= width - lengths.unsqueeze(1)).long()
    extra = [name for name in prompts[0] if name.startswith("extra.")]
    others = {name[6:]: torch.stack([each[name] for each in prompts]).to(device) for name in extra}
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), **others}


def kept_embeddings(
    family: Family, model: Any, images: Sequence[ImageTokens], selections: Sequence[Selection]
) -> tuple[list[Tensor], list[ImageTokens]]:
    """What the language model is given of every image, ``[k_i, H]``, and the kept tokens before the projector."""
    kept = reduced_images(images, selections)
    if family.projects_inside:
        return [each.features for each in kept], kept
    return list(family.project(model, [each.features for each in kept])), kept


def answer_logp(
    family: Family,
    model: Any,
    prompts: Sequence[Prompt],
    selections: Sequence[Selection],
    embeddings: Sequence[Tensor],
    kept: Sequence[ImageTokens],
) -> list[Tensor]:
    """``[T_i, V]`` float32 log-probabilities of the next token at every token of the answers, led along them.

    Args:
        family, model: the model.
        prompts: B prompts, a picture each.
        selections: what is kept of each picture.
        embeddings: what stands at its placeholders, ``[k_i, H]``; gradients go to these.
        kept: the kept tokens, for models whose later layers are given some of them as well.
    """
    device = embeddings[0].device
    owners = (getattr(model, "generation_config", None), model.config.get_text_config())
    pad = padding_id(owners, family.image_token_id(model))
    inputs = joined(prompts, pad, device)
    placeholders = family.places(model, inputs).long()
    layout = plan_prompt(
        placeholders.cpu(), inputs["attention_mask"].cpu(), 1, selections, "left", keep_end=True, device=device
    )
    positions = family.positions(model, inputs)
    taken = family.encoder_arguments(model, inputs)
    out = {name: value for name, value in layout.apply(inputs, pad).items() if name not in taken}
    if positions is not None:
        family.place(model, out, layout.take(positions, 0), generating=False)
    else:
        first = family.first_position(model)
        out["position_ids"] = plain_positions(out["input_ids"], out["attention_mask"]) + first
    layers = list(zip(*(each.layers for each in kept), strict=True))
    out["mm_encoder_outputs"] = {family.handed_as(): family.encoder_output(model, list(embeddings), layers)}
    longest = max(len(each["answer"]) for each in prompts)
    logits = model(**out, use_cache=False).logits[:, -longest:]
    logp = logits.float().log_softmax(dim=-1)
    return [row[longest - len(each["answer"]) :] for row, each in zip(logp, prompts, strict=True)]


def as_float(images: Sequence[ImageTokens], dtype: torch.dtype, device: torch.device) -> list[ImageTokens]:
    """Stored tokens as the model takes them."""
    return [
        replace(
            each,
            features=each.features.to(device, dtype),
            layers=tuple(layer.to(device, dtype) for layer in each.layers),
        )
        for each in images
    ]
