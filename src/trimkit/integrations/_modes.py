"""Ways of generating that need to be told apart: drafts of assisted decoding, and continuous batching."""

from __future__ import annotations

from typing import Any

from trimkit.errors import UnsupportedError

__all__ = ["drafts", "refuse_paged"]


def drafts(kwargs: dict[str, Any]) -> bool:
    """Whether this ``generate`` is an assistant's: what it is given was made ready by the model that it drafts for."""
    return bool(getattr(kwargs.get("generation_config"), "is_assistant", False))


def refuse_paged(kwargs: dict[str, Any]) -> None:
    """Continuous batching would drop the images without a word.

    Raises:
        UnsupportedError: it is asked for.
    """
    if kwargs.get("cache_implementation") == "paged":
        raise UnsupportedError(
            "cache_implementation='paged' (continuous batching) takes token ids alone and would lose the images: leave it out"
        )
