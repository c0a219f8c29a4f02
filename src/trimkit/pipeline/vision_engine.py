"""What may run a vision tower in torch's place. The pipeline knows no more of it than this."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from trimkit.core.signals import OF_TOWER, parse_signal
from trimkit.core.types import ImageTokens
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import Method
from trimkit.models import Family, ModelInputs

__all__ = ["VisionEngine", "refuse_engine"]


@runtime_checkable
class VisionEngine(Protocol):
    """An engine that holds the tower of one model."""

    @property
    def name(self) -> str:
        """What messages call it, and what its features are held under."""
        ...

    def encode(self, family: Family, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        """What ``family.encode(model, arguments)`` gives, up to rounding.

        Raises:
            TrimkitError: it cannot, for these arguments or as the model is now. Nothing else runs the tower then.
        """
        ...


def refuse_engine(family: Family, model: Any, method: Method, tower_keep: float | None) -> None:
    """Refuse a model, or a way of reducing it, that needs torch to run the tower.

    Raises:
        UnsupportedError: the family's tower is no module of its own, or the method reads more of it than its features.
        ConfigError: ``tower_keep`` is asked for, too.
    """
    if family.parts(model) is None:
        raise UnsupportedError(
            f"vision_engine= runs CLIP's vision tower before a projector (LLaVA-1.5, VipLLaVA), which {type(model).__name__} "
            "does not have: leave it out"
        )
    read = sorted(name for name in method.asked_signals if parse_signal(name).kind in OF_TOWER)
    if method.tower_plan is not None:
        raise UnsupportedError(
            f"method {method.name!r} changes the way through the vision tower, which vision_engine= runs in one piece: "
            "leave it out"
        )
    if read:
        raise UnsupportedError(
            f"method {method.name!r} needs {' and '.join(read)} from inside the vision tower, and "
            "vision_engine= gives its features alone: leave it out, or use a method without signals, such as 'trim'"
        )
    if tower_keep is not None:
        raise ConfigError(
            "tower_keep= stops the vision tower midway, which vision_engine= cannot: leave one of them out"
        )
