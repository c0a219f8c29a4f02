"""Hooks on a model's parts that read a meter (a clock, or a counter of FLOPs) where a stage begins and ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from trimkit.bench.formula import LayerCall

__all__ = ["Pass", "Probe", "Trace"]

Meter = Callable[[], float]
_TOWERS = ("vision_tower", "visual", "vision_model", "image_tower", "vision_encoder")
_PROJECTORS = ("multi_modal_projector", "connector", "projector")


@dataclass
class Pass:
    """Readings of one pass of the language model: where it, its first layer, its last layer and its head begin or end."""

    begin: float
    layers_begin: float = 0.0
    layers_end: float = 0.0
    end: float = 0.0

    @property
    def whole(self) -> float:
        """From the embeddings to the logits."""
        return self.end - self.begin

    @property
    def layers(self) -> float:
        """What the layers take, which grows with their number."""
        return self.layers_end - self.layers_begin


@dataclass
class Trace:
    """What was read during one call; the lengths only where they were asked for.

    Attributes:
        spent: of the ``vision`` tower and the projector (``project``), summed over their calls.
        passes: of the language model.
        tower: every call of one of the tower's layers.
        texts, prefill: length of each question; in each layer of the first pass.
        projected: tokens the projector was given.
    """

    spent: dict[str, float] = field(default_factory=lambda: {"vision": 0.0, "project": 0.0})
    passes: list[Pass] = field(default_factory=list)
    tower: list[LayerCall] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)
    prefill: list[int] = field(default_factory=list)
    projected: int = 0


class Probe:
    """Finds the parts of one model; where one is missing, its stage stays at 0.

    Args:
        model: the model.
        text_model: CLIP's text tower, where the scorer has one of its own.
        stock: whether the stock call is watched. A reduced one has a clock of its own for tower and projector, and a tower with
            hooks on it would be run as a whole.
    """

    def __init__(self, model: Any, text_model: Any = None, *, stock: bool = True) -> None:
        base = getattr(model, "model", model)
        self._decoder: Any = model.get_decoder()
        self._head = model.get_output_embeddings()
        self._layers = list(getattr(self._decoder, "layers", ()))
        self._tower = _first(base, _TOWERS)
        self._projector = _first(base, _PROJECTORS)
        self._merger = (
            _first(self._tower, ("merger",)) if self._projector is None else None
        )  # a part of the tower's time
        self._text = text_model
        self._stock = stock

    @contextlib.contextmanager
    def watch(self, read: Meter, *, lengths: bool = False) -> Iterator[Trace]:
        """Read during the calls inside; ``lengths`` also notes what each layer is given."""
        trace = Trace()
        hooks = [*self._stages(read, trace), *(self._lengths(trace) if lengths else ())]
        try:
            yield trace
        finally:
            for hook in hooks:
                hook.remove()

    def _stages(self, read: Meter, trace: Trace) -> Iterator[Any]:
        for name, module in (("vision", self._tower), ("project", self._projector)):
            if module is not None and self._stock:
                yield from _around(module, read, trace.spent, name)

        def begin(*_: Any) -> None:
            trace.passes.append(Pass(read()))

        def end(*_: Any) -> None:
            trace.passes[-1].end = read()

        yield self._decoder.register_forward_pre_hook(begin)
        yield self._decoder.register_forward_hook(end)
        if isinstance(self._head, nn.Module):
            yield self._head.register_forward_hook(end)
        if self._layers:
            yield self._layers[0].register_forward_pre_hook(
                lambda *_: setattr(trace.passes[-1], "layers_begin", read())
            )
            yield self._layers[-1].register_forward_hook(lambda *_: setattr(trace.passes[-1], "layers_end", read()))

    def _lengths(self, trace: Trace) -> Iterator[Any]:
        def note(into: list[int], only_first_pass: bool = False) -> Callable[..., None]:
            def hook(_: Any, given: Any, named: dict[str, Any]) -> None:
                if not only_first_pass or len(trace.passes) == 1:
                    into.append(int(_tensor(given, named).shape[1]))

            return hook

        def projected(_: Any, given: Any, named: dict[str, Any]) -> None:
            trace.projected += _tensor(given, named)[..., 0].numel()

        for layer in self._layers:  # at its attention: a method may shorten what the layer is called with
            part = getattr(layer, "self_attn", layer)
            yield part.register_forward_pre_hook(note(trace.prefill, True), with_kwargs=True)
        for number, layer in enumerate(_stack(self._tower)):
            yield layer.register_forward_pre_hook(_noted(trace.tower, number), with_kwargs=True)
        if self._text is not None:
            yield self._text.register_forward_pre_hook(note(trace.texts), with_kwargs=True)
        if (projector := self._projector or self._merger) is not None:
            yield projector.register_forward_pre_hook(projected, with_kwargs=True)


def _noted(calls: list[LayerCall], number: int) -> Callable[..., None]:
    def hook(_: Any, given: Any, named: dict[str, Any]) -> None:
        state = _tensor(given, named)
        pictures, length = state.shape[:2] if state.ndim == 3 else (1, len(state))  # or all patches in one row
        calls.append(LayerCall(number, int(pictures), int(length)))

    return hook


def _around(module: Any, read: Meter, spent: dict[str, float], name: str) -> Iterator[Any]:
    begun: list[float] = []

    def end(*_: Any) -> None:
        spent[name] += read() - begun.pop()

    yield module.register_forward_pre_hook(lambda *_: begun.append(read()))
    yield module.register_forward_hook(end)


def _first(base: Any, names: tuple[str, ...]) -> Any:
    return next((getattr(base, name) for name in names if getattr(base, name, None) is not None), None)


def _stack(tower: Any) -> list[nn.Module]:
    """The layers of a tower: the longest list of modules in it."""
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)] if tower is not None else []
    return list(max(lists, key=len, default=[]))


def _tensor(given: Any, named: dict[str, Any]) -> Tensor:
    """The first tensor that a module is called with."""
    found: Tensor = next(value for value in (*given, *named.values()) if isinstance(value, Tensor))
    return found
