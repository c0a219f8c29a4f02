"""Pictures of chat requests to the embedding parts that a text-only engine is sent."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from trimkit.config import Reduction, configured
from trimkit.core.recent import Recent
from trimkit.core.types import ImageReport
from trimkit.errors import ModelError, UnsupportedError
from trimkit.methods import Method
from trimkit.models import family_of
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.pipeline.partial_checkpoint import load_without_language_model
from trimkit.pipeline.reduced_inputs import ImageEmbeddings
from trimkit.pipeline.text_free import text_free
from trimkit.pipeline.vision_encoder import VisionEncoder
from trimkit.serving.encode.checks import check_positions, placeholder_frame
from trimkit.serving.encode.prompt import PromptRenderer
from trimkit.serving.server.messages import TrimRequest

__all__ = ["EncodedPicture", "PictureEncoder"]

_ENCODERS = 32  # one a method and its options, as requests name them


@dataclass(frozen=True)
class EncodedPicture:
    """What stands for one picture.

    Attributes:
        data: base64 of ``torch.save`` of the ``[K, H]`` embeddings.
        before, after: image tokens without and with reduction; ``after`` is K.
        cached: whether the vision tower was not run for it.
        images: what was kept of each of its images (tiles), as reports say it.
    """

    data: str
    before: int
    after: int
    cached: bool
    images: tuple[ImageReport, ...]


class PictureEncoder:
    """Vision tower, projector and text tower of a checkpoint, for chat requests. Not for several threads at once.

    Args:
        model: a vision-language model; its language model may be empty.
        processor: its processor.
        method: how requests are reduced that say nothing else.
        scorer: as ``trimkit.reduce`` takes it.
        cache_images: pictures whose features are held.

    Raises:
        UnsupportedError: 3-D positions, attention in both directions, marks between the tokens of a picture.
        ConfigError: the method needs a scorer and none is known, or drops tokens inside the language model.
    """

    def __init__(
        self, model: Any, processor: Any, *, method: Method, scorer: Any = None, cache_images: int = 256
    ) -> None:
        family = family_of(model)
        check_positions(model, family)
        self.method = method
        self._model, self._processor, self._scorer = model, processor, scorer
        self._cache = FeatureCache(cache_images)
        self._encoders: Recent[str, VisionEncoder] = Recent(_ENCODERS)
        image_id = family.image_token_id(model)
        self.render = PromptRenderer(model, processor, image_id)
        self.frame = placeholder_frame(processor, self.render, image_id)
        text = model.config.get_text_config()
        self.width = int(text.hidden_size)
        self.longest: int | None = getattr(text, "max_position_embeddings", None)
        self.encode(
            [Image.new("RGB", (64, 64), (120, 130, 140))], "?", method
        )  # refuses what it must before a request does

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        method: Method,
        scorer: str | Path | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        cache_images: int = 256,
    ) -> Self:
        """Load a checkpoint without its language model.

        Raises:
            ModelError, ConfigError, UnsupportedError: as ``VisionEncoder.from_pretrained`` and this class raise them.
        """
        model, processor = load_without_language_model(name, device, dtype)
        return cls(model, processor, method=method, scorer=scorer, cache_images=cache_images)

    def method_for(self, trim: TrimRequest) -> Method:
        """The server's method with what a request says of its own: ``method``, ``budget``, the method's options.

        Another method takes over the budget and the profile that the server was given, and not the defaults of its method.

        Raises:
            ConfigError: an unknown method, or an option that it does not have or that cannot be.
        """
        if trim.method is None and not trim.options:
            return self.method
        own = Reduction(method=self.method.name, **self.method.model_dump(mode="json", exclude_unset=True))
        return configured(None, trim.method, own, **trim.options)

    def encode(self, pictures: Sequence[Image.Image], question: str | None, method: Method) -> list[EncodedPicture]:
        """Embeddings of every picture, chosen for ``question``; at equal distances where there is none.

        Raises:
            ConfigError: the method cannot be used here.
            ModelError: the tower gives values that are not finite, or embeddings of another width than the language model's.
        """
        if question is None and method.needs_relevance:
            method = text_free(method)
        records = self._encoder(method).encode(list(pictures), question)
        return [self._picture(list(each)) for _, each in groupby(records, key=lambda record: record.row)]

    def _encoder(self, method: Method) -> VisionEncoder:
        key = f"{method.name} {method.model_dump_json()}"
        found = self._encoders.get(key)
        if found is None:
            found = VisionEncoder(
                self._model, self._processor, method=method, scorer=self._scorer, cache_images=self._cache
            )
            self._encoders.put(key, found)
        return found

    def _picture(self, records: Sequence[ImageEmbeddings]) -> EncodedPicture:
        if any(record.layers for record in records):
            raise UnsupportedError(
                "this model gives image features to later layers, too (deep-stack), which embeddings in front of an engine do "
                "not carry: use the plugin within vLLM, or transformers"
            )
        embeddings = torch.cat([record.embeddings for record in records]).detach()
        self._check(embeddings)
        return EncodedPicture(
            data=_packed(embeddings),
            before=sum(record.selection.total for record in records),
            after=len(embeddings),
            cached=all(record.cached for record in records),
            images=tuple(_report(record) for record in records),
        )

    def _check(self, embeddings: Tensor) -> None:
        """An engine answers embeddings that are not finite with the first token of the vocabulary, and says nothing."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width:
            raise ModelError(
                f"the encoder gives embeddings of shape {list(embeddings.shape)}, the language model reads [K, {self.width}]"
            )
        if not len(embeddings) or (self.longest is not None and len(embeddings) > self.longest):
            raise ModelError(f"a picture became {len(embeddings)} tokens, where the model takes 1 to {self.longest}")
        if not bool(torch.isfinite(embeddings).all()):
            raise ModelError("the encoder gives values that are not finite: load it with --dtype float32")


def _packed(embeddings: Tensor) -> str:
    file = io.BytesIO()
    torch.save(embeddings.cpu().contiguous().clone(), file)  # a view would be saved with all that it looks into
    return base64.b64encode(file.getbuffer()).decode()


def _report(record: ImageEmbeddings) -> ImageReport:
    return record.selection.reported(
        row=record.row, query=record.query, grid=record.grid, relevance=record.relevance, cached=record.cached
    )
