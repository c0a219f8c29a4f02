"""The page's one model: loaded when it is first needed, shared by all users, one answer at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from trimkit.core.recent import Recent

__all__ = ["LazyModel", "Loaded"]

_HELD_INPUTS = 8


@dataclass(frozen=True)
class Loaded:
    """A model that is ready.

    Attributes:
        model, processor: as ``trimkit.loading.load_model`` gives them.
        scorer: what the user named, as ``trimkit.reduce`` takes it.
        own_positions: whether preparing a request leaves a mark on the model that a running answer reads (M-RoPE).
        answering: held while an answer is generated: a model has one attachment at a time.
        inputs: processed prompts by picture and question, so that a moved slider processes nothing again.
    """

    model: Any
    processor: Any
    scorer: str | None
    own_positions: bool
    answering: threading.Lock = field(default_factory=threading.Lock)
    inputs: Recent[tuple[str, str], Any] = field(default_factory=lambda: Recent(_HELD_INPUTS))


class LazyModel:
    """Loads on first use. A failed try is told to its user, and made again for the next one.

    Args:
        name, device, dtype: as ``trimkit.loading.load_model`` takes them.
        scorer: as ``trimkit.reduce`` takes it.
        new_tokens: length limit of a reply.
    """

    def __init__(
        self,
        name: str = "demo",
        device: str = "cpu",
        dtype: str = "auto",
        scorer: str | None = None,
        new_tokens: int = 64,
    ) -> None:
        self.name = name
        self.new_tokens = new_tokens
        self._how = {"device": device, "dtype": dtype}
        self._scorer = scorer
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._loaded is not None

    def get(self) -> Loaded:
        """The model; the first caller loads it, others wait.

        Raises:
            TrimkitError: it cannot be loaded.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> Loaded:
        from trimkit.loading import load_model
        from trimkit.models import family_of

        model, processor = load_model(self.name, **self._how)
        return Loaded(model, processor, self._scorer, family_of(model).own_positions)
