"""Pictures and questions to reduced embeddings, with no language model in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from trimkit.errors import ConfigError, InputError, UnsupportedError
from trimkit.methods import Method
from trimkit.models import ModelInputs
from trimkit.pipeline.call_settings import CallSettings, refuse_llm_stage
from trimkit.pipeline.chosen_images import ChosenImages
from trimkit.pipeline.image_queries import each_row
from trimkit.pipeline.input_reducer import InputReducer
from trimkit.pipeline.media import ImageQueries
from trimkit.pipeline.partial_checkpoint import load_without_language_model
from trimkit.pipeline.picture_inputs import picture_arguments
from trimkit.pipeline.reduced_inputs import ImageEmbeddings
from trimkit.pipeline.stage_clock import StageClock
from trimkit.scorers import Scorer

__all__ = ["VisionEncoder"]

_SETTINGS = ("cache_images", "tower_keep", "tower_layer")  # of a call without a prompt


class VisionEncoder:
    """Vision tower, projector and the text tower that relevance comes from: what stands at a picture's placeholders.

    ``from_pretrained`` makes one without the language model; made from a whole model, it uses that model's own modules.

    Args:
        model: a transformers vision-language model, or what ``load_without_language_model`` gives of one.
        processor: its processor, which prepares pictures; not needed for processed arguments.
        method, scorer: as ``trimkit.reduce`` takes them. Where the method reads the text, the scorer is loaded at once.
        **options: ``cache_images``, ``tower_keep`` and ``tower_layer`` of ``trimkit.reduce``, and fields of the method.

    Attributes:
        model: tower and projector; its language model is empty where it was loaded without one.
        processor: as given.
        scorer: where relevance comes from, or None where the method does not read the text.

    Raises:
        ConfigError: an option that cannot be, no scorer is known, a method that drops tokens inside the language model, or
            ``share="prompt"``: there is no prompt.
        UnsupportedError: the model is not covered, or the method needs signals that its tower does not have.
    """

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        *,
        method: str | Method = "trim",
        scorer: Scorer | nn.Module | str | Path | None = None,
        **options: Any,
    ) -> None:
        settings = CallSettings(**{name: options.pop(name) for name in _SETTINGS if name in options})
        self._reducer = InputReducer(model, processor, method, scorer, settings, options)
        refuse_llm_stage(self.method)
        if self.method.share == "prompt" and not self.method.keeps_all:
            raise ConfigError(
                "share='prompt' divides a budget among the pictures of a prompt: use trimkit.prepare for it"
            )
        self.scorer = self._reducer.chooser.scorer()
        self.model = model
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        method: str | Method = "trim",
        scorer: Scorer | nn.Module | str | Path | None = None,
        **options: Any,
    ) -> Self:
        """Load a checkpoint without its language model, whose tensors are not read.

        Args:
            name: ``demo``, a directory written by ``save_pretrained``, or a hub id; safetensors only.
            device: any torch device, or ``auto``: a GPU where there is one.
            dtype: ``auto`` (what the checkpoint's config says), ``float32``, ``float16`` or ``bfloat16``.
            method, scorer, options: as the class takes them.

        Raises:
            ModelError: there is no such checkpoint, or it is damaged or incomplete.
            ConfigError, UnsupportedError: as the class raises them, and for a device or a dtype.
        """
        model, processor = load_without_language_model(name, device, dtype)
        return cls(model, processor, method=method, scorer=scorer, **options)

    @property
    def method(self) -> Method:
        """What chooses; ``method.tokens(total)`` says how many tokens an image gets, where that is known before."""
        return self._reducer.method

    @property
    def device(self) -> torch.device:
        """Where the tower runs."""
        device: torch.device = self.model.device
        return device

    def clear_cache(self) -> None:
        """Forget image features and question embeddings; needed only after weights were changed through ``Tensor.data``."""
        self._reducer.clear_caches()

    def encode(
        self, images: Any | Sequence[Any] | Mapping[str, Any], query: str | Sequence[str] | None = None
    ) -> list[ImageEmbeddings]:
        """What the language model is to be given for pictures; ``VisionEncoder(...)(images, query)`` does the same.

        Args:
            images: a PIL image or several; or what the processor makes of them (``pixel_values``, ``image_sizes``,
                ``image_grid_thw`` ...; other entries are left aside).
            query: the question, one for all pictures or one a picture; None where the method reads no text.

        Returns:
            One record a picture, in order, with its number as ``row``. A family that ranks the tiles of a picture one by one
            (InternVL, Gemma 3 with pan and scan) gives several of the same ``row``; of processed arguments, every image that
            the family ranks has a number of its own. Nothing carries gradients.

        Raises:
            InputError: something is no picture, or there are not as many questions as pictures.
            ConfigError: the method reads the text and there is no question, or there is no processor.
            UnsupportedError: a video.
        """
        arguments, rows, count = self._arguments(images)
        if query is None and self.method.needs_question:
            raise ConfigError(f"method {self.method.name!r} needs a question for every image: pass query=")
        given = [None] * count if query is None else each_row(query, count)
        if not rows:
            return []
        queries: list[ImageQueries] = [(given[row],) for row in rows]
        with torch.no_grad():
            chosen = self._reducer.reduce_images(arguments, rows, queries, StageClock(self.device))
        return _records(chosen, queries)

    __call__ = encode

    def _arguments(self, images: Any) -> tuple[ModelInputs, list[int], int]:
        """Encoder arguments of all images that are ranked, the picture's number of each, and how many pictures there are."""
        family, model = self._reducer.family, self.model
        if not isinstance(images, Mapping):
            pictures = list(images) if isinstance(images, (list, tuple)) else [images]
            each = [family.split(model, picture_arguments(family, model, self.processor, one)) for one in pictures]
            parts = [part for parts in each for part in parts]
            rows = [row for row, parts in enumerate(each) for _ in parts]
            return family.join(parts) if parts else {}, rows, len(pictures)
        inputs = dict(images)
        if inputs.get("pixel_values_videos") is not None:
            raise UnsupportedError(
                "VisionEncoder takes pictures, no videos: use trimkit.prepare, or pass frames as pictures"
            )
        arguments = family.encoder_arguments(model, inputs)
        if family.pixels(model) not in arguments:
            raise InputError(f"there are no {family.pixels(model)}: pass what the processor makes of pictures")
        arguments = {
            name: each.to(self.device) if isinstance(each, Tensor) else each for name, each in arguments.items()
        }
        count = len(family.split(model, arguments))
        return arguments, list(range(count)), count


def _records(chosen: ChosenImages, queries: Sequence[ImageQueries]) -> list[ImageEmbeddings]:
    parts = zip(chosen.items, queries, chosen.selections, chosen.kept, chosen.embeddings, strict=True)
    return [
        ImageEmbeddings(item.family.medium, item.row, asked[-1], kept, embeddings, selection, item.cached)
        for item, asked, selection, kept, embeddings in parts
    ]
