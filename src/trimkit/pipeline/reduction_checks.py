"""What does not go together: a model, a method and the settings of a call."""

from __future__ import annotations

from typing import Any

from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import Method
from trimkit.models import Family
from trimkit.pipeline.call_settings import CallSettings, check_signals, refuse_unplanned
from trimkit.pipeline.vision_engine import refuse_engine

__all__ = ["check_reduction", "refuse_positions"]


def refuse_positions(family: Family, settings: CallSettings) -> None:
    """Refuse positions that a family cannot have.

    Raises:
        UnsupportedError: contiguous ones where they are 3-D.
    """
    if settings.positions == "contiguous" and family.own_positions:
        raise UnsupportedError(
            "this model's tokens have 3-D positions (M-RoPE), which stay original: leave positions= out"
        )


def check_reduction(family: Family, model: Any, method: Method, settings: CallSettings) -> None:
    """Refuse what cannot work on this model, or not with these settings.

    Raises:
        UnsupportedError: the method asks for what this model's tower does not give, or the engine does not.
        ConfigError: settings that exclude each other.
    """
    check_signals(family, model, method)
    refuse_unplanned(family, model, method)
    if settings.vision_engine is not None:
        refuse_engine(family, model, method, settings.tower_keep)
    if method.prunes_llm and (settings.positions == "contiguous" or settings.turns != "refresh"):
        raise ConfigError(
            f"method {method.name!r} keeps positions and asks anew in every turn: leave positions= and turns= out"
        )
