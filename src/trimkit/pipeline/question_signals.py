"""Signals that come of the question: its words in the language model's embedding table, and in the space of a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimkit.core.transfer import upload
from trimkit.core.types import ImageTokens
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import Method
from trimkit.scorers import Scorer

__all__ = ["QuestionSignals"]


class QuestionSignals:
    """Adds what a method asks for of questions (``words``, ``clip_patches``, ``clip_text``) to images.

    Args:
        model: whose embedding table ``words`` are looked up in.
        tokenizer: its tokenizer, or None.
        method: what asks.
    """

    def __init__(self, model: Any, tokenizer: Any, method: Method) -> None:
        self._model, self._tokenizer, self._method = model, tokenizer, method
        self._names = method.asked_signals & {"words", "clip_patches", "clip_text"}

    def onto(
        self, images: Sequence[ImageTokens], asked: Sequence[str | None], scorer: Scorer | None
    ) -> list[ImageTokens]:
        """The images with the signals of their questions; one without a question stays as it is.

        Raises:
            ConfigError: there is no tokenizer.
            UnsupportedError: the language model is not loaded, or the scorer has no such embeddings.
        """
        if not self._names:
            return list(images)
        found = []
        for image, question in zip(images, asked, strict=True):
            own = {} if question is None else {name: self._one(name, image, question, scorer) for name in self._names}
            found.append(replace(image, signals={**image.signals, **own}))
        return found

    @torch.no_grad()
    def _one(self, name: str, image: ImageTokens, question: str, scorer: Scorer | None) -> Tensor:
        if name == "words":
            return self._words(question)
        embeddings: Any = getattr(scorer, "patch_embeddings" if name == "clip_patches" else "segment_embeddings", None)
        if embeddings is None:
            raise UnsupportedError(
                f"method {self._method.name!r} needs {name}, which {type(scorer).__name__} does not give: use a scorer that "
                "reads the model's own CLIP tower"
            )
        found: Tensor = embeddings(image) if name == "clip_patches" else embeddings(question)
        return found

    def _words(self, question: str) -> Tensor:
        """``[M, H]``."""
        if self._tokenizer is None:
            raise ConfigError(f"method {self._method.name!r} reads the question's words: pass the model's processor")
        try:
            table = self._model.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            table = None
        if getattr(table, "weight", None) is None:
            raise UnsupportedError(
                f"method {self._method.name!r} looks words up in the language model's embeddings, which is not loaded: use "
                "trimkit.prepare or trimkit.attach"
            )
        ids = self._tokenizer(self._method.words(question), add_special_tokens=False)["input_ids"]
        return table(upload(ids, table.weight.device)).detach()  # type: ignore[no-any-return]
