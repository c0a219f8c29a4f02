"""Features of the vision tower by picture, bounded by bytes: another question about a picture runs no tower."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

__all__ = ["HeldFeatures"]


class HeldFeatures:
    """The features last used. They are held in main memory, which vLLM's own bookkeeping of device memory leaves alone.

    Args:
        limit: bytes; 0 holds nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._held: OrderedDict[str, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: str) -> Tensor | None:
        """``[N, D]`` where it was put, in main memory, or None."""
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
        return found

    def put(self, key: str, features: Tensor) -> None:
        """Hold a copy of ``features`` ``[N, D]``; those unused for longest go. What is larger than the limit is not held."""
        size = features.numel() * features.element_size()
        if size > self.limit:
            return
        self._drop(key)
        self._held[key] = features.detach().to("cpu", copy=True)  # a view would keep a whole batch alive
        self.bytes += size
        while self.bytes > self.limit:
            self._drop(next(iter(self._held)))

    def _drop(self, key: str) -> None:
        gone = self._held.pop(key, None)
        if gone is not None:
            self.bytes -= gone.numel() * gone.element_size()
