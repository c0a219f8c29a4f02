"""Seconds of a request by arithmetic: a roofline for each stage, and what launching its kernels takes.

A stage has matrix products (FLOPs at the device's rate, less with few tokens), weights and activations that are moved, and
kernels that are launched. A GPU does these at a time, so that the longest counts; a CPU does one after the other. Nothing here
is fitted to a measured request: constants are the device's, FLOPs and bytes those of the formulas, kernels are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from trimkit.advice.calls import Calls
from trimkit.advice.devices import Device
from trimkit.bench.formula import LanguageSizes, Sizes, TowerSizes, Work, flops

__all__ = ["STAGES", "Times", "predict"]

STAGES = ("vision", "choosing", "project", "prefill", "decode", "other")
_FUSED = 0.5
"""Kernels that are left where a compiler fuses what can be fused."""
_REPLAYED = 1e-6
"""Seconds for each kernel of a captured graph that is started as a whole."""
_MOVED_WIDTHS, _MOVED_INNERS = 20, 6
"""How often a layer reads or writes a token's state, and its feed-forward part's."""


@dataclass(frozen=True)
class Times:
    """Seconds of a call by stage.

    Attributes:
        stages: by the names in ``STAGES``.
        launches: the part of all that the device waits for the host to launch kernels.
        first: until the first token.
    """

    stages: dict[str, float]
    launches: float
    first: float

    @property
    def whole(self) -> float:
        """Of the whole call."""
        return sum(self.stages.values())


@dataclass(frozen=True)
class _Part:
    """One run of a stack of layers."""

    products: float = 0.0  # FLOPs
    attention: float = 0.0
    rows: float = 1.0
    weights: float = 0.0  # bytes
    moved: float = 0.0
    cached: float = 0.0
    kernels: float = 0.0


class _Clock:
    """What parts take on a device."""

    def __init__(self, device: Device, dtype: str, compiled: bool) -> None:
        self._device, self._rate, self._compiled = device, device.rate(dtype), compiled

    def seconds(self, part: _Part) -> tuple[float, float]:
        """Of a part, and how much of it is waiting for launches."""
        device, rate = self._device, self._rate
        kernels = part.kernels * (_FUSED if self._compiled else 1.0)
        products = part.products / rate.flops * (1 + device.half_rows / max(part.rows, 1.0))
        attention = part.attention / (rate.flops * device.attention)
        if device.overlaps:
            read = part.weights / device.bandwidth
        elif part.rows > 1:
            read = part.weights / rate.pack if rate.pack else 0.0
        else:
            read, products = max(part.weights / device.bandwidth, products), 0.0
        moved = part.moved / device.elementwise * (_FUSED if self._compiled else 1.0) + part.cached / device.cache
        if device.overlaps:
            busy = max(products, read) + attention + moved + kernels * device.kernel_s
            host = kernels * (_REPLAYED if self._compiled else device.launch_s)
            return max(busy, host), max(host - busy, 0.0)
        host = kernels * device.launch_s
        return products + read + attention + moved + host, host

    def added(self, kernels: float, waits: float) -> float:
        """Choosing: small kernels, and the host waiting for what they find."""
        return kernels * max(self._device.launch_s, self._device.kernel_s) + waits * self._device.wait_s


def predict(
    sizes: Sizes, work: Work, calls: Calls, device: Device, dtype: str, *, compiled: bool = False, kept: int = 0
) -> Times:
    """Seconds of one call.

    Args:
        sizes, work: the model, and what the call does.
        calls: kernels of its architecture; with ``added`` those of the method.
        device: what it runs on.
        dtype: ``bfloat16`` or the like.
        compiled: whether prefill and decoding are compiled and replayed as a graph.
        kept: tokens that a method chooses of each picture; 0 for the stock call.

    Raises:
        ConfigError: the device has no figures for the dtype.
    """
    element = 4 if dtype == "float32" else 2
    eager, clock = _Clock(device, dtype, False), _Clock(device, dtype, compiled)
    by_stage = flops(sizes, replace(work, new_tokens=1))
    vision, launches = eager.seconds(_tower(sizes, work, calls, by_stage["vision"], element))
    project, _ = eager.seconds(_project(sizes, work, by_stage["project"], element))
    prefill, waited = clock.seconds(_prefill(sizes, work, calls, by_stage["prefill"], element))
    choosing = (
        eager.added(calls.added + kept * calls.added_token, calls.waits + kept * calls.waits_token) if kept else 0.0
    )
    choosing += eager.seconds(_reading(sizes, work, by_stage["text"] + by_stage["select"], element))[0]
    steps, sampled = work.new_tokens, _steps(work.new_tokens)
    each = [clock.seconds(_decode(sizes, work, calls, step, element, compiled)) for step in sampled]
    times = (steps - 1) / max(len(sampled), 1)  # the mean of what the first, middle and last step take
    decode, waited = times * sum(one[0] for one in each), waited + times * sum(one[1] for one in each)
    other = steps * calls.step * device.launch_s
    first = vision + project + choosing + prefill + calls.step * device.launch_s
    stages = dict(zip(STAGES, (vision, choosing, project, prefill, decode, other), strict=True))
    return Times(stages, launches + waited + (other if device.overlaps else 0.0), first)


def _steps(new_tokens: int) -> list[int]:
    """Decoding steps that stand for all of them: time grows in proportion to what is cached."""
    return [] if new_tokens < 2 else [1, max(new_tokens // 2, 1), new_tokens - 1]


def _tower(sizes: Sizes, work: Work, calls: Calls, total: int, element: int) -> _Part:
    seen = sizes.vision
    tokens = sum(each.pictures * each.length for each in work.tower)
    layers = len({each.layer for each in work.tower})
    inner = (3 if seen.gated else 2) * seen.inner
    attention = sum(
        4 * each.pictures * each.length * _keys(sizes, each.layer, each.length) * seen.width for each in work.tower
    )
    return _Part(
        products=total - attention,
        attention=attention,
        rows=tokens / max(layers, 1),
        weights=layers * (4 * seen.width**2 + inner * seen.width) * element,
        moved=tokens * (_MOVED_WIDTHS * seen.width + _MOVED_INNERS * seen.inner) * element,
        kernels=layers * calls.tower_layer + calls.tower if layers else 0.0,
    )


def _keys(sizes: Sizes, layer: int, length: int) -> int:
    seen, keys = sizes.vision, min(length, sizes.crop)
    return min(keys, seen.window) if seen.window and layer not in seen.full else keys


def _project(sizes: Sizes, work: Work, total: int, element: int) -> _Part:
    weights = total / (2 * max(work.projected // sizes.merge, 1)) * element
    return _Part(products=total, rows=work.projected // sizes.merge, weights=weights)


def _prefill(sizes: Sizes, work: Work, calls: Calls, total: int, element: int) -> _Part:
    lm = sizes.language
    tokens = work.batch * sum(work.prefill)
    attention = work.batch * sum(4 * length * length * lm.heads * lm.head for length in work.prefill)
    return _Part(
        products=total - attention,
        attention=attention,
        rows=tokens / len(work.prefill),
        weights=_weights(lm) * element,
        moved=tokens * (_MOVED_WIDTHS * lm.width + _MOVED_INNERS * lm.inner) * element,
        kernels=lm.layers * calls.layer + calls.around,
    )


def _decode(sizes: Sizes, work: Work, calls: Calls, step: int, element: int, compiled: bool) -> _Part:
    """One step. A growing cache is read and written once more to make room, and read by attention."""
    lm = sizes.language
    held = work.batch * sum(length + step for length in work.prefill)
    per_token = 2 * lm.kv_heads * lm.head * element
    return _Part(
        products=2 * work.batch * _weights(lm),
        attention=4 * held * lm.heads * lm.head,
        rows=work.batch,
        weights=_weights(lm) * element,
        cached=held * per_token * (1 if compiled else 3),
        kernels=lm.layers * calls.layer + calls.around,
    )


def _reading(sizes: Sizes, work: Work, total: int, element: int) -> _Part:
    """The text tower, and comparing patches with what it says; a scorer's own CLIP with it."""
    if not total:
        return _Part()
    weights = sum(_tower_bytes(each, element) for each in (sizes.text, sizes.clip) if each is not None)
    return _Part(products=total, rows=max(sum(work.texts), 1) if sizes.clip is None else work.scored, weights=weights)


def _tower_bytes(tower: TowerSizes, element: int) -> int:
    return tower.layers * (4 * tower.width**2 + 2 * tower.width * tower.inner) * element


def _weights(lm: LanguageSizes) -> int:
    """Numbers that one pass reads: all layers and the head."""
    attention = 2 * lm.width * lm.head * (lm.heads + lm.kv_heads)
    return lm.layers * (attention + 3 * lm.width * lm.inner) + lm.vocabulary * lm.width
