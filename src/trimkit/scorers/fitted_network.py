"""The network of a fitted scorer: patch features, the question's words and the place in the picture to one relevance a token.

Words and patches meet in a space of ``width`` dimensions. A patch is as relevant as the question's words together make it:
the log of the sum over the words of exp(word . patch + the word's weight), so that the softmax over patches is a mixture with
a map for each word. Two things that a question names both stay, and words that name nothing add the same everywhere. ``Lines``
add what stands in line with what is named. Where the model has a CLIP, its relevance is added with a weight that is fitted as
well: the network then learns what CLIP lacks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.scorers.fitted_lines import Lines

__all__ = ["MOST_WIDTH", "NetworkShape", "ScoringNetwork", "places_of", "width_for"]

MOST_WIDTH = 64
_PLACES = 6  # numbers that say where a patch lies
_FREE_WORDS = 4  # that every question has
_BASE_SCALE = 10.0  # so that an optimizer's small steps take a useless base out in time
_NEIGHBORS = 3  # side of the window over the token grid, and of the one over a question's words


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of a network.

    Attributes:
        features: width of the patch features.
        vocabulary: rows of the word table.
        width: of the space where words and patches meet.
    """

    features: int
    vocabulary: int
    width: int

    @property
    def parameters(self) -> int:
        """Numbers that a network of this shape holds, the word table included."""
        with torch.device("meta"):
            return sum(each.numel() for each in ScoringNetwork(self).parameters())

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def width_for(features: int, vocabulary: int, most_parameters: int) -> int:
    """The largest width, a multiple of 8 up to ``MOST_WIDTH``, whose network has at most so many parameters; 8 at least."""
    widths = range(8, MOST_WIDTH + 1, 8)
    fitting = [w for w in widths if NetworkShape(features, vocabulary, w).parameters <= most_parameters]
    return max(fitting, default=8)


class ScoringNetwork(nn.Module):
    """See the module.

    Args:
        shape: sizes.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        width = shape.width
        self.shape = shape
        self.table = nn.Parameter(torch.zeros(shape.vocabulary, width))
        self.word_norm = nn.LayerNorm(width)
        self.word_window = nn.Conv1d(width, width, _NEIGHBORS, padding=_NEIGHBORS // 2, groups=width)
        self.word_mix = nn.Linear(width, width)
        self.word_weight = nn.Linear(width, 1)
        self.free_words = nn.Parameter(torch.randn(_FREE_WORDS, width) * 0.02)
        self.free_mix = nn.Linear(width, _FREE_WORDS)
        self.feature_norm = nn.LayerNorm(shape.features)
        self.feature_mix = nn.Linear(shape.features, width)
        self.place_mix = nn.Linear(_PLACES, width)
        self.patch_window = nn.Conv2d(width, width, _NEIGHBORS, padding=_NEIGHBORS // 2, groups=width)
        self.patch_mix = nn.Linear(width, width)
        self.patch_weight = nn.Linear(width, 1)
        self.lines = Lines(width)
        self.base_share = nn.Parameter(torch.tensor(1.0 / _BASE_SCALE))
        self._start_even()

    @property
    def base_weight(self) -> Tensor:
        """What ``base`` is multiplied with: a scalar, 1 before training."""
        return self.base_share * _BASE_SCALE

    @torch.no_grad()
    def set_base_weight(self, weight: float) -> None:
        """Multiply ``base`` with another number."""
        self.base_share.fill_(weight / _BASE_SCALE)

    def _start_even(self) -> None:
        """At the start no token is more relevant than another, so that ``base`` alone ranks them."""
        for part in (self.free_mix, self.patch_weight, self.word_weight, self.feature_mix, self.place_mix):
            nn.init.zeros_(part.weight)
        for each in (self.feature_mix, self.place_mix, self.patch_window, self.patch_mix):
            if each.bias is not None:
                nn.init.zeros_(each.bias)

    def words(self, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """A question's words in the common space, and how much each of them weighs.

        Args:
            rows: ``[B, M, width]`` of the word table.
            real: ``[B, M]`` bool, False on padding.

        Returns:
            ``[B, M + 4, width]`` and ``[B, M + 4]``; words of padding weigh -inf.
        """
        normed = self.word_norm(rows) * real.unsqueeze(-1)
        near = self.word_window(normed.transpose(1, 2)).transpose(1, 2)
        words = normed + self.word_mix(torch.nn.functional.gelu(near))
        weights = self.word_weight(words).squeeze(-1).masked_fill(~real, -torch.inf)
        count = real.sum(dim=1, keepdim=True).clamp(min=1)
        whole = (words * real.unsqueeze(-1)).sum(dim=1) / count
        free = self.free_words.expand(rows.shape[0], -1, -1)  # len() would fix the batch of a graph
        return torch.cat([words, free], dim=1), torch.cat([weights, self.free_mix(whole)], dim=1)

    def patches(self, features: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """``[B, N, width]`` of patch features ``[B, N, D]``; without a grid, neighbors and places are not looked at."""
        patches = self.feature_mix(self.feature_norm(features))
        if grid is not None and _fits(grid, features):
            patches = patches + self.place_mix(places_of(*grid, device=features.device))
            image = patches.transpose(1, 2).unflatten(2, grid)
            patches = patches + self.patch_window(image).flatten(2).transpose(1, 2)
        mixed: Tensor = patches + self.patch_mix(torch.nn.functional.gelu(patches))
        return mixed

    def relevance(
        self,
        patches: Tensor,
        words: Tensor,
        weights: Tensor,
        base: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """``[B, N]`` from what ``patches`` and ``words`` give, on top of ``base`` ``[B, N]``, another scorer's relevance.

        Without a grid there are no lines.
        """
        met = torch.matmul(patches, words.transpose(1, 2)) * self.shape.width**-0.5
        own: Tensor = torch.logsumexp(met + weights.unsqueeze(1), dim=2) + self.patch_weight(patches).squeeze(-1)
        if grid is not None and _fits(grid, patches):
            own = own + self.lines(patches, words, torch.isfinite(weights), met, grid, base)
        return own if base is None else own + self.base_weight * base

    def forward(
        self, features: Tensor, ids: Tensor, grid: tuple[int, int] | None = None, base: Tensor | None = None
    ) -> Tensor:
        """``[B, N]`` relevance.

        Args:
            features: ``[B, N, D]`` float.
            ids: ``[B, M]`` int64 of the tokenizer that the table belongs to; negative on padding.
            grid: rows and columns of the tokens.
            base: ``[B, N]``, another scorer's relevance, see ``relevance``.
        """
        real = ids >= 0
        words, weights = self.words(self.table[ids.clamp(min=0)], real)
        return self.relevance(self.patches(features, grid), words, weights, base, grid)


def _fits(grid: tuple[int, int], tokens: Tensor) -> bool:
    return grid[0] * grid[1] == tokens.shape[1]


def places_of(rows: int, columns: int, *, device: torch.device | None = None) -> Tensor:
    """``[rows * columns, 6]``: row and column from -1 to 1, their squares, their product, and the distance of the middle."""
    down = (torch.arange(rows, device=device) + 0.5) / rows * 2.0 - 1.0
    across = (torch.arange(columns, device=device) + 0.5) / columns * 2.0 - 1.0
    y = down.repeat_interleave(columns)
    x = across.repeat(rows)
    return torch.stack([x, y, x * x, y * y, x * y, (x * x + y * y).sqrt()], dim=1)
