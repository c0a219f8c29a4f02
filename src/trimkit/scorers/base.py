"""The scorer protocol (image tokens and questions in, one similarity per token out), and the base of what is on the shelf."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor

from trimkit.core.types import EncoderProfile, ImageTokens
from trimkit.scorers.checkpoint import EncoderCheckpoint

__all__ = ["EncoderScorer", "Scorer"]


@runtime_checkable
class Scorer(Protocol):
    """Anything with a profile and ``similarity``; pass an instance as ``scorer=``."""

    @property
    def profile(self) -> EncoderProfile:
        """How the similarity is to be read."""
        ...

    def similarity(
        self, images: Sequence[ImageTokens], queries: Sequence[str], *, normalize: bool = False, truncate: bool = False
    ) -> list[Tensor]:
        """Raw similarity of every token of every image to its question.

        Args:
            images: B images.
            queries: B questions.
            normalize: cosine instead of dot product.
            truncate: cut long questions instead of chunking them.

        Returns:
            B tensors ``[N_i]``, float32.
        """
        ...


class EncoderScorer(ABC):
    """A scorer on the shelf: found by its encoder's kind, or by its name. One file of ``trimkit/scorers`` adds one.

    Attributes:
        name: what messages call it. Without ``model_types`` it is also what ``scorer=`` takes in place of a checkpoint.
        summary: a line about it.
        model_types: ``config.model_type`` of the encoders it reads.
        needs_views: whether it looks at the pixels itself (``ImageTokens.views``), instead of reading the features of the
            model's vision tower (``ImageTokens.features``).
        own_profile: whether its own ``trimkit.json`` says how its similarity is to be read, and not the model's.
        profile: how its similarity is to be read; set by ``__init__``.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    model_types: ClassVar[tuple[str, ...]] = ()
    needs_views: ClassVar[bool] = False
    own_profile: ClassVar[bool] = False

    profile: EncoderProfile

    @classmethod
    def fits(cls, config: Any, tower: Any) -> bool:
        """Whether it reads an encoder of these ``model_types`` beside a model with this vision tower.

        Args:
            config: of the encoder's checkpoint.
            tower: config of the vision tower whose features it would be given, or None where it gets pixels alone.
        """
        return True

    @classmethod
    @abstractmethod
    def load(cls, checkpoint: EncoderCheckpoint) -> Self:
        """Build it. What is built is shared by all models that name this checkpoint, and must not depend on one of them.

        Raises:
            ModelError: the checkpoint lacks something.
        """

    def check_model(self, model: Any) -> None:  # noqa: B027 - most scorers fit every model
        """Refuse a model that it cannot be used beside, where it was made for one alone.

        Args:
            model: the vision-language model, loaded or in part.

        Raises:
            ConfigError: as it says.
        """

    @abstractmethod
    def similarity(
        self, images: Sequence[ImageTokens], queries: Sequence[str], *, normalize: bool = False, truncate: bool = False
    ) -> list[Tensor]:
        """See ``Scorer.similarity``."""
