"""Text relevance as tensor operations, and the texts that an exported graph is given for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.core import functional as F
from trimkit.errors import UnsupportedError
from trimkit.methods import Method
from trimkit.models import VisionParts
from trimkit.scorers import ClipNativeScorer, FittedScorer, Scorer

__all__ = ["Relevance", "TextInput", "relevance_of"]

_EXAMPLE = "what is in the picture?"


@dataclass(frozen=True)
class TextInput:
    """The ids of questions, one input of a graph.

    Attributes:
        name, length: of the input, and of its second dimension.
        tokenizer: makes them.
        special_tokens: whether with the tokenizer's start and end tokens.
        pad_with: what shorter questions are filled up with.
        max_length: ids of a question at most; None without a limit.
    """

    name: str
    length: str
    tokenizer: Any
    special_tokens: bool
    pad_with: int
    max_length: int | None

    @property
    def folder(self) -> str:
        """Where the tokenizer lies beside the graph."""
        return self.name.replace("_ids", "_tokenizer")

    def example(self, rows: int) -> Tensor:
        """``[rows, L]`` int64 of some question."""
        ids = self.tokenizer(_EXAMPLE, add_special_tokens=self.special_tokens)["input_ids"]
        return torch.tensor([list(ids)] * rows)

    def to_plain(self) -> dict[str, Any]:
        """For the settings beside the graph."""
        said = {"dtype": "int64", "shape": ["batch", self.length], "max_length": self.max_length}
        return {**said, "pad_with": self.pad_with, "special_tokens": self.special_tokens}


class Relevance(nn.Module):
    """From features and questions to raw relevance.

    Attributes:
        texts: what it is given of a question, in the order of ``forward``'s arguments.
    """

    texts: Sequence[TextInput] = ()


class _ClipRelevance(Relevance):
    """CLIP's text tower against the features of the model's own vision tower, as ``ClipNativeScorer`` compares them."""

    def __init__(self, scorer: ClipNativeScorer, columns: tuple[int, int] | None, *, normalize: bool) -> None:
        super().__init__()
        self.text_model, self.text_projection = scorer.text_model, scorer.text_projection
        self.post_layernorm, self.visual_projection = scorer.post_layernorm, scorer.visual_projection
        self._columns, self._normalize = columns, normalize
        end = int(scorer.tokenizer("a")["input_ids"][-1])
        self.texts = (TextInput("question_ids", "length", scorer.tokenizer, True, end, scorer.max_length),)

    def forward(self, features: Tensor, question_ids: Tensor, word_ids: Tensor | None = None) -> Tensor:
        """``[B, N]`` raw relevance."""
        text = self.text_projection(self.text_model(input_ids=question_ids).pooler_output)
        seen = features if self._columns is None else features[..., slice(*self._columns)]
        norm = self.post_layernorm
        patches = F.patch_embeddings(seen, norm.weight, norm.bias, self.visual_projection.weight, norm.eps)
        return F.clip_relevance(patches, text, normalize=self._normalize)


class _FittedRelevance(Relevance):
    """The network of ``trimkit fit``, on top of CLIP's relevance where it builds on that."""

    def __init__(
        self, scorer: FittedScorer, base: _ClipRelevance | None, scale: float, grid: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.network, self.base = scorer.network, base
        self._scale, self._grid = scale, grid
        self.texts = (
            *(() if base is None else base.texts),
            TextInput("word_ids", "words", scorer.tokenizer, special_tokens=False, pad_with=-1, max_length=None),
        )

    def forward(self, features: Tensor, question_ids: Tensor | None, word_ids: Tensor) -> Tensor:
        """``[B, N]`` raw relevance."""
        if self.base is None or question_ids is None:
            return self.network(features, word_ids, self._grid)  # type: ignore[no-any-return]
        return self.network(features, word_ids, self._grid, self.base(features, question_ids) * self._scale)  # type: ignore[no-any-return]


def relevance_of(
    method: Method, scorer: Scorer | None, parts: VisionParts, *, normalize: bool, grid: tuple[int, int] | None
) -> Relevance:
    """The relevance of ``scorer`` as a module.

    Args:
        method: what it is for.
        scorer: where relevance comes from.
        parts: of the model.
        normalize: whether similarity is a cosine.
        grid: rows and columns of the tokens.

    Raises:
        UnsupportedError: it looks at pixels, or builds on a scorer that does.
    """
    columns = parts.tower_columns
    if isinstance(scorer, ClipNativeScorer):
        return _ClipRelevance(scorer, columns, normalize=normalize)
    if isinstance(scorer, FittedScorer):
        below, how = scorer.base, scorer.base_profile
        if below is None:
            return _FittedRelevance(scorer, None, 1.0, grid)
        if isinstance(below, ClipNativeScorer):
            base = _ClipRelevance(below, columns, normalize=how.normalize)
            return _FittedRelevance(scorer, base, how.sign / how.temperature, grid)
    raise UnsupportedError(
        f"method {method.name!r} is exported with the text half of the tower's own CLIP, or with a scorer that `trimkit fit` "
        f"fitted, and the scorer is {type(scorer).__name__}: name one of these as the scorer, or use a method that reads no "
        "text"
    )
