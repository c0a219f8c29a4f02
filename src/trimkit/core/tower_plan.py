"""How a method changes the way of a picture through the vision tower: another size, or patches that leave on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["TowerPlan", "TowerRead"]


@dataclass(frozen=True)
class TowerRead:
    """What one layer of the tower has done, for one image with n patches.

    Attributes:
        layer: the layer's number, from 0.
        last: how many layers are run in all.
        total: patches of the image at first.
        attention: ``[n]`` float32, what the class token attends to at each patch, mean over heads.
        values: ``[1 + n, heads, head_dim]``, those of the class token first.
        carried: what the step before has handed on, for the patches that are left; None in the first layer.
    """

    layer: int
    last: int
    total: int
    attention: Tensor
    values: Tensor
    carried: Tensor | None


@dataclass(frozen=True)
class TowerPlan:
    """What a method asks of the tower. Patches that it leaves out are not ``alive`` in the tokens that come of it.

    Attributes:
        name: of the method and all options that have a say: two plans of one name give the same tokens.
        grid: rows and columns of patches that the picture is resized to before the tower, from those of the tower; or None.
        step: is asked behind every layer about all pictures of a call; or None. It says of each which patches go on, ``[k]``
            int64 ascending or None for all, and what is handed on to the next step (for these).
    """

    name: str
    grid: Callable[[int, int], tuple[int, int]] | None = field(default=None, repr=False)
    step: Callable[[Sequence[TowerRead]], Sequence[tuple[Tensor | None, Tensor | None]]] | None = field(
        default=None, repr=False
    )
