"""How many requests fit a given memory at once, by the formulas of ``trimkit.bench.formula``; nothing is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimkit.bench.formula import Sizes, kv_bytes, peaks, weights
from trimkit.bench.plan import AT_ONCE, planned

__all__ = ["Load", "capacities", "held_bytes", "largest_batch", "needed_bytes", "saved_share"]

_MOST = 65_536


@dataclass(frozen=True)
class Load:
    """One kind of request, as the language model sees it.

    Attributes:
        sizes: of the model.
        image_tokens: of all pictures of a row.
        text_tokens: of a row beside them.
        new_tokens: that a row generates.
        pictures: of a row.
        reduced: whether trimkit runs the tower: eight pictures at a time, and where the projector runs on kept tokens
            (LLaVA-1.5) on those alone. The stock call takes all pictures together.
    """

    sizes: Sizes
    image_tokens: int
    text_tokens: int = 40
    new_tokens: int = 128
    pictures: int = 1
    reduced: bool = False

    def peak(self, batch: int, element: int) -> dict[str, int]:
        """Bytes above the idle model, as ``formula.peaks``; ``element`` bytes a number."""
        before = self.reduced and self.sizes.crops == self.sizes.merge == 1  # the projector sees what is kept
        work = planned(
            self.sizes,
            batch,
            self.image_tokens,
            self.text_tokens,
            self.new_tokens,
            self.pictures,
            projected=batch * self.image_tokens if before else None,
            at_once=AT_ONCE if self.reduced else None,
        )
        return {**peaks(self.sizes, work, element), "kv_after": kv_bytes(self.sizes, work, element)}


def held_bytes(sizes: Sizes, element: int, *, scorer: bool) -> int:
    """Bytes of the model's weights, and with ``scorer`` of the text tower beside it."""
    numbers = weights(sizes)
    return element * (numbers["model"] + (numbers["scorer"] if scorer else 0))


def needed_bytes(load: Load, batch: int, element: int) -> int:
    """Weights and the request's peak."""
    return held_bytes(load.sizes, element, scorer=load.reduced) + load.peak(batch, element)["peak"]


def largest_batch(load: Load, memory: int, element: int) -> int:
    """Requests at once that ``memory`` bytes hold beside the weights; 0 where not even one fits."""
    low, high = 0, 1
    while high < _MOST and needed_bytes(load, high, element) <= memory:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed_bytes(load, middle, element) <= memory else (low, middle)
    return low


def saved_share(full: Load, reduced: Load, batch: int, element: int) -> dict[str, Any]:
    """What a batch needs, weights included, with all tokens and with fewer, and the share that is saved."""
    one, other = (needed_bytes(each, batch, element) for each in (full, reduced))
    return {"batch": batch, "full_bytes": one, "reduced_bytes": other, "saved": 1 - other / one}


def capacities(
    arms: Sequence[dict[str, Any]], sizes: Sizes, memory: int, element: int, text_tokens: int, pictures: int
) -> list[dict[str, Any]]:
    """``largest_batch`` of every measured arm, one entry for each method, budget and reply length."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for arm in arms:
        tokens = math.ceil(arm["image_tokens"]) * pictures
        load = Load(sizes, tokens, text_tokens, arm["new_tokens"], pictures, arm["method"] != "none")
        entry = {name: arm[name] for name in ("method", "budget", "new_tokens")}
        key = tuple(map(str, entry.values()))
        found.setdefault(key, {**entry, "memory_bytes": memory, "largest_batch": largest_batch(load, memory, element)})
    return list(found.values())
