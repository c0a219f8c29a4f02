"""Names of the vision tower's weights: transformers 5 saves them without ``vision_model.``, which vLLM's towers have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

__all__ = ["with_vision_model"]

_TOWERS = ("model.vision_tower.", "vision_tower.")


def with_vision_model(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The weights of a CLIP or SigLIP tower by the names of older checkpoints; the others as they are."""
    for name, value in weights:
        head = next((each for each in _TOWERS if name.startswith(each)), None)
        if head is not None and not name.startswith(f"{head}vision_model."):
            name = f"{head}vision_model.{name[len(head) :]}"
        yield name, value
