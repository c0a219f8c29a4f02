"""Counts calls into torch, and those that would make the host wait for a GPU, on a machine that has none.

A ``TorchFunctionMode`` sees every call into torch from Python. It follows which tensors would be on the accelerator: all, but
those that were fetched to the host, made there without a device, or computed from such alone. What reads a value of one on the
accelerator (``tolist``, ``bool``, a mask as an index, ``linalg.eigh``, which checks that it converged) or copies it to the
host is a wait; so is a copy to the accelerator that is not ``non_blocking``. On a GPU,
``torch.cuda.set_sync_debug_mode("error")`` finds the same: see ``no_waits``.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

__all__ = ["HostWaits", "no_waits"]


def _words(text: str) -> list[str]:
    return text.split()


_READS = frozenset(
    _words(
        "tolist item __bool__ __int__ __float__ __index__ __complex__ __contains__ nonzero argwhere "
        "masked_select equal allclose unique unique_consecutive bincount numpy __array__ __format__ __repr__ "
        "isin_scalar linalg_eigh linalg_eigvalsh linalg_svd linalg_solve linalg_inv linalg_cholesky "
    )
)
_MAKERS = frozenset(
    _words(
        "tensor as_tensor zeros ones empty full arange eye rand randn randint randperm linspace from_numpy "
        "scalar_tensor "
    )
)
_NO_WORK = frozenset(
    _words(
        "__get__ __set__ __len__ size dim numel stride is_floating_point data_ptr is_inference is_contiguous "
        "element_size _set_grad_enabled _has_compatible_shallow_copy_type is_complex get_device "
        "requires_grad_ set_default_dtype "
    )
)
_MOVES = frozenset({"to", "cpu", "cuda"})
_OWN = "trimkit"
_TEXT = "trimkit.scorers"
_NOT_OURS = ("trimkit.bench", "trimkit.demo")


class HostWaits(TorchFunctionMode):
    """Use as a context; afterwards it says what was called within.

    A call is *ours* where it is made by trimkit's code, or by a text tower or another encoder that trimkit runs. Those of the
    vision tower, the projector and the language model are the stock model's.

    Attributes:
        calls: calls into torch in all; attribute reads such as ``shape`` and ``device`` do not count.
        waits: of all calls, those that wait.
        calls_at, waits_at: the same of our calls alone, by the place in our code (``pipeline/selecting.py:60 tolist``).
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.waits = 0
        self.calls_at: Counter[str] = Counter()
        self.waits_at: Counter[str] = Counter()
        self._host: dict[int, weakref.ref[Tensor]] = {}

    @property
    def our_calls(self) -> int:
        """Calls of ours."""
        return self.calls_at.total()

    @property
    def our_waits(self) -> int:
        """Waits of ours."""
        return self.waits_at.total()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if name in _NO_WORK:
            return self._looked_at(name, func, args, kwargs)
        waits = self._waits(name, args, kwargs)
        on_host = self._lands_on_host(name, args, kwargs)
        self.calls += 1
        self.waits += waits
        place = _our_place()
        if place is not None:
            self.calls_at[f"{place} {name}"] += 1
            self.waits_at[f"{place} {name}"] += waits
        result = func(*args, **kwargs)
        if on_host:
            for each in _tensors(result):
                self._host[id(each)] = weakref.ref(each)
        elif name not in ("__setitem__",):
            for each in _tensors(result):
                self._host.pop(id(each), None)
        return result

    def _looked_at(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """A call that gives the device nothing to do; what it returns lies where its tensor does."""
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and args and isinstance(args[0], Tensor) and self._is_host(args[0]):
            self._host[id(result)] = weakref.ref(result)
        return result

    def _is_host(self, tensor: Tensor) -> bool:
        found = self._host.get(id(tensor))
        return found is not None and found() is tensor

    def _waits(self, name: str, args: Any, kwargs: Any) -> bool:
        tensors = list(_tensors(args)) + list(_tensors(kwargs))
        away = [each for each in tensors if not self._is_host(each)]
        if name in ("__getitem__", "__setitem__"):
            return self._index_waits(args)
        if name == "fetch":
            return bool(away)
        if name in _MOVES:
            return self._move_waits(name, args, kwargs)
        if name in ("tensor", "as_tensor"):  # numbers of the host onto a device
            return kwargs.get("device") is not None and not _is_cpu(kwargs["device"]) and not tensors
        if name == "repeat_interleave":
            return bool(away) and kwargs.get("output_size") is None and any(isinstance(a, Tensor) for a in args[1:2])
        if name in ("where", "__contains__"):
            return bool(away) and (name == "__contains__" or len(args) == 1)
        return bool(away) and name in _READS

    def _index_waits(self, args: Any) -> bool:
        target, index = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
        parts = [each for each in index if isinstance(each, Tensor)]
        parts += [each for part in index if isinstance(part, list) for each in _tensors(part)]
        if self._is_host(target):
            return any(not self._is_host(each) for each in parts)
        reads = [each for each in parts if each.dtype in (torch.bool, torch.uint8) or each.ndim == 0]
        if len(args) > 2 and isinstance(args[2], Tensor) and args[2].ndim and self._is_host(args[2]):
            return True
        if len(args) > 2 and len(parts) == 1 and reads and parts[0].ndim and _is_scalar(args[2]):
            return False  # x[mask] = number is a masked_fill
        return bool(reads) or any(self._is_host(each) for each in parts)

    def _move_waits(self, name: str, args: Any, kwargs: Any) -> bool:
        host = self._is_host(args[0])
        if name == "cpu":
            return not host
        target = _target(args, kwargs)
        if target is None or (isinstance(target, Tensor) and self._is_host(target) == host):
            return False
        if _is_cpu(target):
            return not host
        return host and not kwargs.get("non_blocking", False)

    def _lands_on_host(self, name: str, args: Any, kwargs: Any) -> bool:
        tensors = list(_tensors(args)) + list(_tensors(kwargs))
        if name in ("cpu", "fetch"):
            return True
        if name in _MOVES:
            target = _target(args, kwargs)
            if target is None:
                return self._is_host(args[0])
            return _is_cpu(target) or (isinstance(target, Tensor) and self._is_host(target))
        if not tensors:
            device = kwargs.get("device")
            return name in _MAKERS and (device is None or _is_cpu(device))
        return all(self._is_host(each) for each in tensors)


@contextlib.contextmanager
def no_waits() -> Iterator[None]:
    """On a GPU, raise ``RuntimeError`` where the host would wait for it; elsewhere nothing happens."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the mode a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _name(func: Any) -> str:
    name = getattr(func, "__name__", None)
    return str(name or resolve_name(func) or func).rpartition(".")[2]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)


def _target(args: Any, kwargs: Any) -> Any:
    """Where ``Tensor.to`` goes: a device, its name or a tensor; None where only the dtype changes."""
    given = [*args[1:2], *(kwargs[name] for name in ("device", "other") if name in kwargs)]
    return next((each for each in given if isinstance(each, (str, torch.device, Tensor))), None)


def _is_cpu(device: Any) -> bool:
    """Whether ``"cpu"`` was written; a ``torch.device`` is taken for the model's own."""
    return isinstance(device, str) and device == "cpu"


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.ndim == 0


def _our_place() -> str | None:
    """File and line of our code that made the call; None where the stock model's did."""
    frame: FrameType | None = sys._getframe(2)
    found, stock = None, False
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_OWN) and not module.startswith(_NOT_OURS):
            if found is None:
                found = f"{module.removeprefix(_OWN + '.').replace('.', '/')}.py:{frame.f_lineno}"
            if not stock or module.startswith(_TEXT):
                return found
        elif module.startswith(("transformers", "torch.nn.modules")) and found is None:
            stock = stock or module.startswith("transformers")
        frame = frame.f_back
    return None
