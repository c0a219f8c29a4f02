"""The shadows of ``forward``: there while the model is attached, and until the last reduced ``generate`` has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from trimkit.attach.attached_model import AttachedModel
from trimkit.attach.forwarding import BaseForward, ReducedForward
from trimkit.attach.shadow import SHADOWING, SharedShadow

__all__ = ["ForwardShadows"]


class ForwardShadows:
    """The whole model's ``forward``, and its base model's, where pixels enter.

    Args:
        attached: the model and what reduces it.
        full_logits: as ``trimkit.reduce`` takes it.

    Attributes:
        owners: the modules that are shadowed.
    """

    def __init__(self, attached: AttachedModel, *, full_logits: bool) -> None:
        model = attached.model
        base = attached.reducer.family.base(model)
        self.owners: list[Any] = [model] if base is model else [model, base]
        self._shadows: list[SharedShadow] = []
        headed = base is model and model.get_output_embeddings() is not None  # Llama 4: no base model inside
        # A base model compiled on its own is reached by the whole model alone.
        base_shadowed = not (headed or hasattr(base, "_orig_mod"))
        if headed or base is not model:
            forward = ReducedForward(attached, full_logits=full_logits, base_shadowed=base_shadowed)
            self._shadows.append(SharedShadow(model, "forward", forward))
        if base_shadowed:
            self._shadows.append(SharedShadow(base, "forward", BaseForward(attached)))

    def enter(self) -> None:
        """Put them in place, or count one more who needs them."""
        with SHADOWING:
            for shadow in self._shadows:
                shadow.enter()

    def leave(self) -> None:
        """Undo one ``enter``; the last takes them away."""
        with SHADOWING:
            for shadow in reversed(self._shadows):
                shadow.leave()

    def undo(self, state: dict[str, Any]) -> None:
        """Take them out of a copied ``__dict__``."""
        for shadow in self._shadows:
            shadow.undo(state)

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """Need them for a while."""
        self.enter()
        try:
            yield
        finally:
            self.leave()
