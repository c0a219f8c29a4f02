"""How a call is reduced, beside the method's own options."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from trimkit.core.choices import Padding, Positions, QueryFrom, TurnPolicy, check_choice
from trimkit.core.signals import OF_TOWER, parse_signal
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import Method
from trimkit.models import Family
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.pipeline.vision_engine import VisionEngine

__all__ = ["CallSettings", "check_signals", "in_full_precision", "refuse_llm_stage", "refuse_unplanned"]


@dataclass(frozen=True)
class CallSettings:
    """Options of ``trimkit.reduce`` and ``trimkit.prepare`` that say how a call is reduced; ``reduce`` documents them.

    Raises:
        ConfigError: a number that cannot be, or an unknown choice.
    """

    cache_images: int | FeatureCache = 32
    turns: TurnPolicy = "refresh"
    positions: Positions = "auto"
    query_from: QueryFrom = "question"
    tower_keep: float | None = None
    tower_layer: int | None = None
    pad_to_multiple_of: int = 1
    vision_engine: VisionEngine | None = None
    buckets: Sequence[int] = ()
    padding: Padding = "keep"

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> CallSettings:
        """Those among the options of a call; what is left in ``options`` is the method's."""
        return cls(**{field.name: options.pop(field.name) for field in fields(cls) if field.name in options})

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if isinstance(self.cache_images, int) and self.cache_images < 0:
            raise ConfigError(
                f"cache_images={self.cache_images} is negative: give the number of images to hold, 0 for none"
            )
        if self.pad_to_multiple_of < 1:
            raise ConfigError(
                f"pad_to_multiple_of={self.pad_to_multiple_of} is below 1: give for example 64, or 1 for no padding"
            )
        if any(isinstance(each, bool) or not isinstance(each, int) or each < 1 for each in self.buckets):
            raise ConfigError(
                f"buckets={self.buckets!r} are not lengths: give whole numbers, for example (128, 256, 640)"
            )
        if self.buckets and self.pad_to_multiple_of > 1:
            raise ConfigError("both buckets= and pad_to_multiple_of= say how long prompts become: give one of them")
        check_choice("positions", self.positions, Positions)
        check_choice("padding", self.padding, Padding)
        if self.padding == "skip" and self.tower_keep is not None:
            raise ConfigError("tower_keep= and padding='skip' both say which patches can be chosen: give one of them")
        if self.vision_engine is not None and not isinstance(self.vision_engine, VisionEngine):
            raise ConfigError(
                f"vision_engine={self.vision_engine!r} is taken by trimkit.attach and trimkit.reduce: attach the model, or "
                "leave it out"
            )

    def bucket(self, length: int) -> int:
        """The smallest bucket that ``length`` columns fit into; ``length`` itself where there is none."""
        return min((each for each in self.buckets if each >= length), default=length)


def check_signals(family: Family, model: Any, method: Method) -> None:
    """Refuse a method that asks the vision tower for signals that this model's tower does not have.

    Raises:
        ConfigError: there is no such signal, or no such layer.
        UnsupportedError: the tower has no class token, or its patches are not the tokens one by one.
    """
    names = {name: parse_signal(name) for name in sorted(method.asked_signals)}
    of_tower = [name for name, parsed in names.items() if parsed.kind in OF_TOWER]
    if not of_tower:
        return
    source = family.signal_source(model, {})
    if source is None:
        raise UnsupportedError(
            f"method {method.name!r} needs {' and '.join(of_tower)} of a CLIP tower with a class token, which "
            f"{type(model).__name__} does not give: use a method without signals, such as 'trim' or 'uniform'"
        )
    for name in of_tower:
        source.number(names[name].layer)


def refuse_unplanned(family: Family, model: Any, method: Method) -> None:
    """Refuse a method that changes the way through the vision tower, where the family's tower cannot do that.

    Raises:
        UnsupportedError: that.
    """
    if method.tower_plan is not None and not method.keeps_all and not family.follows_plans(model):
        raise UnsupportedError(
            f"method {method.name!r} works inside a CLIP tower of one picture size (LLaVA-1.5's), which {type(model).__name__} "
            "does not have: use another method, or resize pictures before the processor"
        )


def refuse_llm_stage(method: Method) -> None:
    """Refuse a method that drops tokens inside the language model, where only inputs of it are made.

    Raises:
        ConfigError: that.
    """
    if method.prunes_llm:
        raise ConfigError(
            f"method {method.name!r} drops tokens inside the language model: attach the model (trimkit.attach) to use it"
        )


def in_full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Without autocast, where it is on: training in half precision is to keep the patches that asking keeps."""
    mixed = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if mixed else contextlib.nullcontext()
