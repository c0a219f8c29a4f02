"""One pass through the layers behind the cut: their arguments for fewer columns, and the columns put back behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from trimkit.attach.llm_pruning.layer_layout import Columns, LayerLayout, cut_mask, take
from trimkit.errors import UnsupportedError

__all__ = ["ShortPass", "hidden_and_rest"]

_ALONG_SEQUENCE = ("position_ids", "cache_position")


class ShortPass:
    """One pass through the shortened layers."""

    def __init__(
        self,
        layout: LayerLayout,
        at: Columns,
        whole: Tensor,
        implementation: str,
        renumber: Callable[[Tensor, Tensor], Any] | None = None,
    ) -> None:
        self.layout = layout
        self._layout, self._at, self._whole = layout, at, whole
        self._renumber = renumber
        self._placed: tuple[Tensor, Any] | None = None
        self._cuts = at.first == 0
        self._implementation = implementation
        self._masks: dict[int, tuple[Any, Any]] = {}

    def hidden(self) -> Tensor:
        return self._layout.cut(self._whole, self._at) if self._cuts else self._whole

    def spread(self, short: Tensor) -> Tensor:
        return self._layout.spread(short, self._whole, self._at) if self._cuts else short

    def arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A layer's keyword arguments for what is left of the sequence."""
        out = {**kwargs, "attention_mask": self._mask(kwargs.get("attention_mask"))}
        if not self._cuts:
            return {**out, **self._renumbered(kwargs)}
        for name, value in kwargs.items():
            if name == "position_embeddings" and value is not None:
                out[name] = tuple(take(each, self._at.queries) for each in value)
            elif name in _ALONG_SEQUENCE and value is not None:
                # FlashAttention takes gaps for packed sequences; what layers rotate by is in position_embeddings
                flash = "flash" in self._implementation and kwargs.get("position_embeddings") is not None
                gone = flash or value.ndim == 1
                out[name] = None if gone else take(value.unsqueeze(-1), self._at.queries).squeeze(-1)
            elif name != "attention_mask" and isinstance(value, Tensor) and self._whole.shape[1] in value.shape:
                raise UnsupportedError(
                    f"layers are given {name!r}, which cannot be cut: use a method that drops tokens before"
                )
        return {**out, **self._renumbered(kwargs)}

    def _renumbered(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Positions less what is gone before them, where that is asked for: those of a sequence that never had it."""
        if self._renumber is None or self._at.gone is None:
            return {}
        if self._placed is None:
            positions = kwargs.get("position_ids")
            if positions is None or kwargs.get("position_embeddings") is None:
                raise UnsupportedError(
                    "layers of this language model are not given their positions, which therefore stay: give renumber=False"
                )
            if self._cuts:
                positions = take(positions.unsqueeze(-1), self._at.queries).squeeze(-1)
            positions = positions - self._at.gone
            self._placed = positions, self._renumber(self._whole, positions)
        positions, embeddings = self._placed
        flash = "flash" in self._implementation and self._cuts
        return {"position_ids": None if flash else positions, "position_embeddings": embeddings}

    def _mask(self, mask: Any) -> Any:
        if id(mask) not in self._masks:  # with the mask itself, so that its id stays its own
            self._masks[id(mask)] = mask, cut_mask(mask, self._at, self._implementation)
        return self._masks[id(mask)][1]


def hidden_and_rest(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """Hidden states, and the other arguments of a layer.

    Raises:
        UnsupportedError: others that have no name.
    """
    if len(args) > 1:
        raise UnsupportedError(
            "layers of this language model are given more than hidden states (inputs of their own): use a method that drops "
            "tokens before it"
        )
    rest = dict(kwargs)
    hidden = args[0] if args else rest.pop("hidden_states")
    return hidden, (), rest
