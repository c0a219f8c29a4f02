"""What a method that drops tokens inside the language model reads at one of its cuts, beside the last token's attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["LayerRead", "TextRows"]


@dataclass(frozen=True)
class TextRows:
    """What some text tokens behind an image attend to at the image's tokens, in one layer.

    Attributes:
        weights: ``[heads, Q, n]`` float32, after the softmax over the whole sequence.
        queries: ``[Q]`` int64 positions of the text tokens in the prompt, as the layer has them.
        keys: ``[n]`` int64 positions of the image tokens.
        head_dim: width of one head.
        theta: base of the layer's rotary embedding.
    """

    weights: Tensor
    queries: Tensor
    keys: Tensor
    head_dim: int
    theta: float


@dataclass(frozen=True)
class LayerRead:
    """One of a method's cuts.

    Attributes:
        stage: its number, from 0.
        totals: tokens of each of the B images before the first cut.
        rows: what the text tokens that the method has named attend to, one record an image; empty where it names none.
    """

    stage: int
    totals: tuple[int, ...]
    rows: tuple[TextRows, ...] = ()

    def part(self, images: Sequence[int]) -> LayerRead:
        """Of some images alone."""
        rows = tuple(self.rows[image] for image in images) if self.rows else ()
        return LayerRead(self.stage, tuple(self.totals[image] for image in images), rows)
