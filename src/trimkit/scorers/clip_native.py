"""Relevance from the model's own CLIP tower: its patch features against the text tower they were trained with.

LLaVA ships only the vision half. The text tower, ``post_layernorm`` and ``visual_projection`` come from the public CLIP
checkpoint that the tower was taken from; the vision layers of that checkpoint are dropped after loading.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimkit import functional as F
from trimkit.errors import ConfigError, InputError
from trimkit.types import EncoderProfile, ImageTokens

__all__ = ["ClipNativeScorer"]

_TEXT_CACHE = 256


class ClipNativeScorer:
    """CLIP's text tower over the vision features that the model computes anyway.

    Args:
        clip: a ``CLIPModel`` (its vision layers are not used).
        tokenizer: its tokenizer.
        profile: sign, normalisation and temperature of this encoder.

    Raises:
        ConfigError: ``clip`` has no text tower or no projections.
    """

    def __init__(self, clip: nn.Module, tokenizer: Any, profile: EncoderProfile | None = None) -> None:
        for part in ("text_model", "text_projection", "visual_projection", "vision_model"):
            if not hasattr(clip, part):
                raise ConfigError(
                    f"{type(clip).__name__} has no {part}: pass scorer= a CLIP checkpoint with a text tower, "
                    "or use a method that does not read the text"
                )
        self.profile = profile or EncoderProfile()
        self.tokenizer = tokenizer
        module: Any = clip
        self._text_model = module.text_model.eval()
        self._text_projection = module.text_projection.eval()
        self._post_layernorm = module.vision_model.post_layernorm
        self._visual_projection = module.visual_projection
        self._max_length = int(module.config.text_config.max_position_embeddings)
        self._cache: OrderedDict[tuple[str, bool], Tensor] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def feature_size(self) -> int:
        """Width of the patch features this scorer reads."""
        return int(self._post_layernorm.weight.shape[0])

    def clear_cache(self) -> None:
        """Forget question embeddings."""
        with self._lock:
            self._cache.clear()

    def similarity(
        self, images: Sequence[ImageTokens], queries: Sequence[str], *, normalize: bool = False, truncate: bool = False
    ) -> list[Tensor]:
        """See ``Scorer.similarity``.

        Raises:
            InputError: a question is empty, or the features are not this tower's.
        """
        texts = self.text_embeddings(queries, truncate=truncate)
        return [
            F.clip_relevance(
                self._patches(image).unsqueeze(0), text.to(image.features.device).unsqueeze(0), normalize=normalize
            )[0]
            for image, text in zip(images, texts, strict=True)
        ]

    @torch.no_grad()
    def text_embeddings(self, queries: Sequence[str], *, truncate: bool = False) -> list[Tensor]:
        """One ``[P]`` embedding a question. Beyond the tower's length: the mean over chunks, weighted by their tokens.

        Raises:
            InputError: a question is empty.
        """
        for query in queries:
            if not query.strip():
                raise InputError("the question is empty: ask something, or use a method that does not read the text")
        return [self._embed(query, truncate) for query in queries]

    def _patches(self, image: ImageTokens) -> Tensor:
        if image.features.shape[-1] != self.feature_size:
            raise ConfigError(
                f"the scorer's CLIP has {self.feature_size}-wide patch features, the model's tower "
                f"{image.features.shape[-1]}-wide ones: pass the CLIP checkpoint that the tower was taken from"
            )
        norm = self._post_layernorm
        device = image.features.device
        return F.patch_embeddings(
            image.features.detach(),
            norm.weight.to(device),
            norm.bias.to(device),
            self._visual_projection.weight.to(device),
            norm.eps,
        )

    def _embed(self, query: str, truncate: bool) -> Tensor:
        key = (query, truncate)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        chunks = self._chunks(query, truncate)
        device = self._text_projection.weight.device
        # One chunk at a time: no padding, so an embedding does not depend on what else is asked.
        embeddings = [
            self._text_projection(self._text_model(input_ids=torch.tensor([ids], device=device)).pooler_output)[0]
            for ids in chunks
        ]
        weights = torch.tensor([float(len(ids) - 2) for ids in chunks], device=device).clamp(min=1.0)
        stacked = torch.stack(embeddings).float()
        text = stacked[0] if len(chunks) == 1 else (stacked * weights.unsqueeze(1)).sum(0) / weights.sum()
        with self._lock:
            self._cache[key] = text
            if len(self._cache) > _TEXT_CACHE:
                self._cache.popitem(last=False)
        return text

    def _chunks(self, query: str, truncate: bool) -> list[list[int]]:
        """Token ids per chunk, each with its own start and end token."""
        if truncate:
            return [self.tokenizer(query, truncation=True, max_length=self._max_length)["input_ids"]]
        whole = self.tokenizer(query, truncation=False, verbose=False)["input_ids"]
        if len(whole) <= self._max_length:
            return [whole]
        start, body, end = whole[:1], whole[1:-1], whole[-1:]
        room = self._max_length - 2
        count = -(-len(body) // room)
        size = -(-len(body) // count)  # even chunks: a last one of three words would weigh as much as a full one
        return [start + body[i : i + size] + end for i in range(0, len(body), size)]
