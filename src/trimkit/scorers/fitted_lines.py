"""What a fitted scorer reads along rows and columns: the answer may stand in line with what the question names, not at it.

In a table, a receipt or a chart, a question names the head of a line, and the answer stands elsewhere on that line. For every
patch this looks up the most that the question meets to the left of it, to the right, above and below, itself included. Gates
say how much of each counts for a patch: they read the patch (a number, a word, a thing) together with the question.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Lines"]

_DIRECTIONS = 4  # from the left, the right, above and below
_SIDE = 3  # patches that a map is averaged over along its line, so that a single one does not make a line
_BASE_SCALE = 0.3  # of another scorer's relevance, whose range is wider than that of the network's own maps


class Lines(nn.Module):
    """Adds to a patch's relevance what stands on its row and its column. Zero before training.

    Args:
        width: of the space where words and patches meet.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head_weight = nn.Linear(width, 2)
        self.question_mix = nn.Linear(width, width)
        self.patch_gate = nn.Linear(width, 2 * _DIRECTIONS)
        self.question_gate = nn.Linear(width, 2 * _DIRECTIONS)
        for part in (self.head_weight, self.patch_gate, self.question_gate):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(
        self, patches: Tensor, words: Tensor, real: Tensor, met: Tensor, grid: tuple[int, int], base: Tensor | None
    ) -> Tensor:
        """``[B, N]``.

        Args:
            patches: ``[B, N, width]``.
            words: ``[B, M, width]`` of the question.
            real: ``[B, M]`` bool, False on padding.
            met: ``[B, N, M]``, how well each patch and each word agree.
            grid: rows and columns of the patches, N in all.
            base: ``[B, N]``, another scorer's relevance, or None.
        """
        heads = self.head_weight(words).masked_fill(~real.unsqueeze(-1), -torch.inf)
        maps = [torch.logsumexp(met + heads[..., i].unsqueeze(1), dim=2).unsqueeze(1) for i in range(2)]
        if base is not None:
            level = ((base - base.mean(dim=1, keepdim=True)) * _BASE_SCALE).unsqueeze(1)
            maps = [torch.cat([each, level], dim=1) for each in maps]
        lines = _in_line(maps[0], maps[1], grid)
        count = real.sum(dim=1, keepdim=True).clamp(min=1)
        question = ((words * real.unsqueeze(-1)).sum(dim=1) / count).unsqueeze(1)
        mixed = functional.gelu(patches + self.question_mix(question))
        gates = self.patch_gate(mixed) + self.question_gate(question)
        total: Tensor = (gates[..., : lines.shape[2]] * lines).sum(dim=2)
        return total


def _in_line(rows: Tensor, columns: Tensor, grid: tuple[int, int]) -> Tensor:
    """``[B, N, 4 * C]``: of each of C maps the highest to the left and to the right of a patch, then above and below.

    Each less the mean over the lines of what is highest there, so that a map that is even everywhere gives 0.

    Args:
        rows, columns: ``[B, C, N]``, looked along rows and columns.
        grid: rows and columns of the patches, N in all.
    """
    found = []
    for each, axis in ((rows, 3), (columns, 2)):
        image = each.reshape(-1, each.shape[1], *grid)
        window, edge = ((1, _SIDE), (0, _SIDE // 2)) if axis == 3 else ((_SIDE, 1), (_SIDE // 2, 0))
        smooth = functional.avg_pool2d(image, window, stride=1, padding=edge, count_include_pad=False)
        middle = smooth.amax(dim=axis, keepdim=True).mean(dim=(2, 3), keepdim=True)
        found += [(_highest_so_far(smooth, axis, backwards) - middle).flatten(2) for backwards in (False, True)]
    return torch.stack(found, dim=2).flatten(1, 2).transpose(1, 2)


def _highest_so_far(image: Tensor, axis: int, backwards: bool) -> Tensor:
    """``torch.cummax`` along an axis of ``[B, C, rows, columns]``, or from its end, as a pooling that graphs can hold."""
    reach = image.shape[axis] - 1
    ends = (0, reach) if backwards else (reach, 0)
    edge, window = (ends, (1, reach + 1)) if axis == 3 else ((0, 0, *ends), (reach + 1, 1))
    padded = functional.pad(image, edge, value=-torch.inf)
    return functional.max_pool2d(padded, window, stride=1)
