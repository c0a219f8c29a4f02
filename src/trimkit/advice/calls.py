"""How many kernels a request launches, and how often the host waits, counted on a small model of the same architecture.

The number of calls does not depend on widths or lengths. Nothing is assumed about transformers or about a method: what is
installed is run.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trimkit.bench.arms import Arm
from trimkit.bench.shapes import SHAPES
from trimkit.bench.subject import RandomModel
from trimkit.core.budget import Budget
from trimkit.methods import Method

__all__ = ["Calls", "Kernels", "Waits", "calls_of"]

_SMALL = {
    "llava": "small",
    "llava_next": "small-next",
    "llava_onevision": "small-onevision",
    "qwen2_5_vl": "small-qwen2.5-vl",
    "qwen3_vl": "small-qwen3-vl",
}
_TEXT = 12
_KEPT = (3, 4)
_PER_TOKEN = 0.5
_VIEWS = {
    "view",
    "_unsafe_view",
    "reshape",
    "transpose",
    "t",
    "permute",
    "expand",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "split",
    "split_with_sizes",
    "alias",
    "detach",
    "as_strided",
    "unbind",
    "chunk",
    "empty",
    "empty_like",
    "empty_strided",
    "lift_fresh",
    "_reshape_alias",
    "unfold",
    "narrow",
    "diagonal",
}
_WAITING = frozenset({"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "cpu", "unique"})
_INDEXING = frozenset({"__getitem__", "__setitem__"})


@dataclass(frozen=True)
class Calls:
    """Kernels by where they are launched.

    Attributes:
        tower_layer, tower: of one layer of the vision tower, and of the rest of it with the projector.
        layer, around: of one layer of the language model in one pass, and of the rest of a pass.
        step: of ``generate`` around a pass.
        added, waits: kernels that trimkit adds to a call, question included, and times that the host waits.
        added_token, waits_token: the same for every token that is kept: some methods choose one after the other.
    """

    tower_layer: float
    tower: float
    layer: float
    around: float
    step: float
    added: float = 0.0
    waits: float = 0.0
    added_token: float = 0.0
    waits_token: float = 0.0


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reaches a device; views do not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ not in _VIEWS
        return func(*args, **(kwargs or {}))


class Waits(TorchFunctionMode):
    """Counts what hands a value to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        self.count += name in _WAITING or (name in _INDEXING and _by_value(args[1]))
        return func(*args, **(kwargs or {}))


def _by_value(index: Any) -> bool:
    """Whether an index has to be read by the host: a number, or which places are true."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(each, Tensor) and (each.ndim == 0 or each.dtype == torch.bool) for each in parts)


def calls_of(kind: str, method: Method | None) -> Calls:
    """Of an architecture (``Shape.kind``), and of a method on it; None is the stock model."""
    stock = _run(kind, None)
    calls = _split(kind, stock)
    if method is None:
        return calls
    (added, waits), (more, longer) = (_added(kind, method, calls, stock, kept) for kept in _KEPT)
    step, each = (more - added) / (_KEPT[1] - _KEPT[0]), (longer - waits) / (_KEPT[1] - _KEPT[0])
    step, each = (value if value > _PER_TOKEN else 0.0 for value in (step, each))
    if method.uses_text:
        missing = SHAPES["llava-1.5-7b"].text[0] - SHAPES[_SMALL[kind]].text[0]
        added += missing * _run_layer()
    first = _KEPT[0]
    return replace(
        calls,
        added=max(added - first * step, 0.0),
        waits=max(waits - first * each, 0.0),
        added_token=step,
        waits_token=each,
    )


def _added(kind: str, method: Method, calls: Calls, stock: _Run, kept: int) -> tuple[float, float]:
    """Kernels and waits beside the tower and the language model's passes, less those of the stock call."""
    own = _run(kind, method.model_copy(update={"budget": Budget("count", kept)}))
    passes = [sum(each.whole for each in run.trace.passes) for run in (stock, own)]
    return own.kernels - passes[1] - (stock.kernels - passes[0]), max(own.waits - stock.waits, 0)


def _run_layer() -> float:
    """Kernels of a layer of CLIP's text tower: as of its vision tower."""
    return _split("llava", _run("llava", None)).tower_layer


@dataclass
class _Run:
    trace: Any
    kernels: int
    waits: int


@functools.cache
def _subject(kind: str) -> RandomModel:
    return RandomModel(SHAPES[_SMALL[kind]], _TEXT, torch.device("cpu"), torch.float32, 0)


@functools.lru_cache(maxsize=64)
def _run(kind: str, method: Method | None) -> _Run:
    """One call with two new tokens and all caches empty."""
    arm = Arm(_subject(kind), method, 1, 2)
    request = arm.request()
    arm.call(request)
    arm.forget()
    kernels, waits = Kernels(), Waits()
    with waits, kernels, arm.observed(lambda: float(kernels.count)) as trace:
        arm.call(request)
    return _Run(trace, kernels.count, waits.count)


def _split(kind: str, run: _Run) -> Calls:
    shape, trace = SHAPES[_SMALL[kind]], run.trace
    last = trace.passes[-1]
    tower = trace.spent["vision"] + trace.spent["project"]
    each = trace.spent["vision"] / (shape.vision[0] + 1)  # embedding and norms are about a layer
    rest = run.kernels - tower - sum(one.whole for one in trace.passes)
    layer = last.layers / shape.layers
    return Calls(each, tower - each * shape.vision[0], layer, last.whole - last.layers, rest / len(trace.passes))
