"""The network while it is fitted: its word table comes of the language model's own embeddings, through one matrix.

So words that no question of the fit has used get a row as well. The table is folded in where the network is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.core.types import ImageTokens
from trimkit.errors import UnsupportedError
from trimkit.fitting._records import PairRecord
from trimkit.scorers import NetworkShape, ScoringNetwork

__all__ = ["FittedWords", "question_ids", "word_embeddings"]


def word_embeddings(model: Any) -> Tensor:
    """``[V, H]`` float32, the language model's input embeddings, detached, with a mean norm of 1.

    Raises:
        UnsupportedError: the model has no table of them.
    """
    table = getattr(model.get_input_embeddings(), "weight", None)
    if not isinstance(table, Tensor) or table.ndim != 2:
        raise UnsupportedError(
            f"{type(model).__name__} has no table of word embeddings: a scorer cannot read its words"
        )
    found: Tensor = table.detach().float()
    return torch.div(found, found.norm(dim=1).mean().clamp(min=1e-12))


def question_ids(tokenizer: Any, questions: Sequence[str]) -> Tensor:
    """``[B, M]`` int64, -1 on padding."""
    rows = [tokenizer(question, add_special_tokens=False)["input_ids"] for question in questions]
    width = max(1, *map(len, rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])


class FittedWords(nn.Module):
    """A network and the matrix that makes its word table.

    Args:
        shape: of the network.
        embeddings: ``[V, H]``, see ``word_embeddings``.
        builds_on: whether the relevance that the model has without fitting is what the network starts from.
    """

    def __init__(self, shape: NetworkShape, embeddings: Tensor, *, builds_on: bool = False) -> None:
        super().__init__()
        self.network = ScoringNetwork(shape)
        self.network.table.requires_grad_(False)
        self.network.base_share.requires_grad_(builds_on)
        self.word_matrix = nn.Linear(embeddings.shape[1], shape.width, bias=False)
        self._embeddings, self.builds_on = embeddings, builds_on

    def forward(
        self, images: Sequence[ImageTokens], ids: Tensor, bases: Sequence[Tensor | None] | None = None
    ) -> list[Tensor]:
        """``[N_i]`` relevance of each picture's tokens.

        Args:
            images: B pictures.
            ids: ``[B, M]``, -1 on padding.
            bases: ``[N_i]`` relevance that the network builds on, or None for all.
        """
        ids = ids.to(self._embeddings.device)
        real = ids >= 0
        words, weights = self.network.words(self.word_matrix(self._embeddings[ids.clamp(min=0)]), real)
        groups: dict[tuple[tuple[int, int] | None, int], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault((image.grid, len(image)), []).append(i)
        found: dict[int, Tensor] = {}
        for (grid, _), rows in groups.items():
            features = torch.stack([images[i].features for i in rows]).float()
            patches = self.network.patches(features, grid)
            given = [None if bases is None else bases[i] for i in rows]
            known = [each.to(patches) for each in given if each is not None]
            base = torch.stack(known) if len(known) == len(rows) else None
            relevance = self.network.relevance(patches, words[rows], weights[rows], base, grid)
            found.update(zip(rows, relevance, strict=True))
        return [found[i] for i in range(len(images))]

    def rank(self, images: Sequence[ImageTokens], pairs: Sequence[PairRecord], tokenizer: Any) -> list[Tensor]:
        """``[N_i]`` relevance to the questions of ``pairs``."""
        ids = question_ids(tokenizer, [pair.question for pair in pairs])
        return self.forward(images, ids, [pair.baseline for pair in pairs] if self.builds_on else None)

    def folded(self) -> ScoringNetwork:
        """A copy of the network with its word table, on the host."""
        network = ScoringNetwork(self.network.shape)
        state = {name: value.detach().cpu() for name, value in self.network.state_dict().items()}
        with torch.no_grad():
            state["table"] = self.word_matrix(self._embeddings).cpu()
        network.load_state_dict(state)
        return network.eval()
