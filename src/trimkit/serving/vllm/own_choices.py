"""In the API server: how many questions about one picture get a choice of their own, with ``turns="auto"``.

Stock vLLM prefills a picture of N image tokens once, and finds it in its prefix cache for every further question. A choice of
k tokens is prefilled for its own question alone. The first ``N // k - 1`` questions about a picture choose for themselves; all
further ones share a single choice that reads no question. Together these are at most N tokens: however many questions come, no
more image tokens are prefilled than by stock vLLM.
"""

from __future__ import annotations

import threading

from trimkit.core.recent import Recent

__all__ = ["OwnChoices", "Size"]

_PICTURES = 16_384  # whose questions are remembered
_SIZES = 1_024  # sizes of pictures, by method

Size = tuple[int, int]


class OwnChoices:
    """Remembers which questions have chosen for themselves. One for each API server."""

    def __init__(self) -> None:
        self._rooms: Recent[tuple[Size, str], int] = Recent(_SIZES)
        self._asked: Recent[tuple[str, str], tuple[str, ...]] = Recent(_PICTURES)
        self._lock = threading.Lock()

    def learn(self, size: Size, method: str, full: int, kept: int) -> None:
        """A picture of this size has ``full`` image tokens, of which the method keeps ``kept``.

        Args:
            size: width and height in pixels.
            method: with its options, as text.
            full: image tokens of the whole picture.
            kept: those left of them, at least 1.
        """
        self._rooms.put((size, method), max(0, full // kept - 1))

    def own(self, question: str, picture: str, size: Size | None, method: str) -> bool:
        """Whether the question chooses for itself. Until a picture of its size was seen, it does.

        Args:
            question: about the picture.
            picture: a key of its content.
            size: width and height in pixels, or None where they are not known.
            method: with its options, as text.
        """
        room = None if size is None else self._rooms.get((size, method))
        with self._lock:
            asked = self._asked.get((picture, method)) or ()
            if question in asked:
                return True
            if room is not None and len(asked) >= room:
                return False
            self._asked.put((picture, method), (*asked, question))
            return True
