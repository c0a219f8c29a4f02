"""What a method of ``stage`` ``llm`` says beside its scores: where it cuts, and what it reads there."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel
from torch import Tensor

__all__ = ["InLanguageModel"]


class InLanguageModel(BaseModel):
    """The part of ``Method`` that only methods inside the language model override.

    Class attributes:
        asks_next: whether attention is that of the layer that is about to see fewer tokens, not of the one before.
        asks_raters: whether it reads what several text tokens attend to (``raters``).
    """

    asks_next: ClassVar[bool] = False
    asks_raters: ClassVar[bool] = False

    def first_short_layer(self, layers: int) -> int:
        """The first of so many ``layers``, counted from 0, that sees fewer tokens."""
        raise NotImplementedError

    def cuts(self, layers: int) -> tuple[int, ...]:
        """Every layer that is the first to see fewer tokens than the one before, ascending.

        A layer named twice is cut once, as the later of the two stages says.
        """
        return (self.first_short_layer(layers),)

    @property
    def renumbers(self) -> bool:
        """Whether what is left is numbered anew behind each cut, 0, 1, 2 ..; else everything keeps its position."""
        return False

    def raters(self, image: Tensor, text: Tensor) -> Tensor:
        """``[M]`` bool, where it ``asks_raters``: which text tokens' attention it reads.

        Args:
            image: ``[N, D]`` input embeddings of an image's tokens.
            text: ``[M, D]`` those of the prompt's text tokens behind them, M at least 1.
        """
        raise NotImplementedError
