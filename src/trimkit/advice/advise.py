"""``advise``: where a request's time goes on a device, what fewer image tokens buy there, and why not where nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from trimkit.advice.calls import Calls, calls_of
from trimkit.advice.devices import Device
from trimkit.advice.predict import Times, predict
from trimkit.bench.capacity import Load, largest_batch, needed_bytes
from trimkit.bench.formula import Sizes, sizes_of_shape
from trimkit.bench.plan import AT_ONCE, planned
from trimkit.bench.shapes import Shape
from trimkit.errors import ConfigError
from trimkit.methods import Method, get_method

__all__ = ["HELPS", "Question", "advise"]

HELPS = 1.1
"""A speed-up below this is said to be none: predictions are no better than that."""

_SHARES = (0.05, 0.11, 0.21, 0.33, 0.5)
_CLIENTS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        shape: the model, with the size of its pictures.
        device: what it runs on.
        dtype: ``bfloat16`` or the like.
        method: how tokens are dropped.
        tokens: image tokens that stay of a picture; None is 21 %, as the paper's 121 of 576.
        pictures: of a prompt.
        text_tokens: of a prompt beside its pictures.
        new_tokens: of the answer.
        clients: requests that are answered together, as one batch.
        compiled: whether prefill and decoding are compiled.
    """

    shape: Shape
    device: Device
    dtype: str
    method: str = "trim"
    tokens: int | None = None
    pictures: int = 1
    text_tokens: int = 40
    new_tokens: int = 32
    clients: int = 1
    compiled: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be asked.

        Raises:
            ConfigError: a number out of range.
        """
        numbers = {
            "text tokens": (self.text_tokens, 1, 100_000),
            "new tokens": (self.new_tokens, 1, 100_000),
            "pictures": (self.pictures, 1, 64),
            "clients": (self.clients, 1, 4096),
            "budget": (self.kept, 1, self.shape.image_tokens),
        }
        for name, (value, low, high) in numbers.items():
            if not low <= value <= high:
                raise ConfigError(f"{name} {value} is outside {low} to {high}: give a number between")

    @property
    def kept(self) -> int:
        """Image tokens that stay of a picture."""
        return max(round(0.21 * self.shape.image_tokens), 1) if self.tokens is None else self.tokens


def advise(question: Question) -> dict[str, Any]:
    """Predicted seconds, full and reduced, what each budget buys, how many requests fit, and a verdict in one line.

    Raises:
        ConfigError: the device has no figures for the dtype; the method is not known.
    """
    asked = _Asked(question)
    full, reduced = asked.times(question, None), asked.times(question, question.kept)
    speedup = full.whole / reduced.whole
    reason = _reason(question, asked, full, reduced)
    return {
        "model": question.shape.to_plain(),
        "device": question.device.to_plain(),
        "request": _plain(question),
        "full": _shown(full),
        "reduced": _shown(reduced),
        "speedup": speedup,
        "prefill_speedup": full.stages["prefill"] / reduced.stages["prefill"],
        "first_token_speedup": full.first / reduced.first,
        "helps": speedup >= HELPS,
        "budgets": [_budget(question, asked, full, tokens) for tokens in asked.budgets()],
        "memory": asked.memory(),
        "limit": reason,
        "remedies": [] if reason is None else _remedies(question, asked),
        "verdict": _verdict(question, asked, speedup, reason),
    }


class _Asked:
    """What stays the same while a question is varied."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self.sizes: Sizes = sizes_of_shape(question.shape)
        method = get_method(question.method)
        if method.name == "none":
            raise ConfigError("method 'none' drops nothing, and takes what the full model takes: name one that reduces")
        self.method: Method = method
        self._stock: Calls = calls_of(question.shape.kind, None)
        self._own: Calls = calls_of(question.shape.kind, method)

    def times(self, question: Question, kept: int | None) -> Times:
        """Of a request with so many tokens of a picture; None is the stock call."""
        shape, sizes, rows = question.shape, self.sizes, question.clients
        tokens = shape.image_tokens if kept is None else kept
        before = shape.kind == "llava" and kept is not None  # the projector sees what is kept
        reads = kept is not None and self.method.uses_text
        work = planned(
            sizes,
            rows,
            question.pictures * tokens,
            question.text_tokens,
            question.new_tokens,
            question.pictures,
            texts=(question.text_tokens,) * rows if reads else (),
            projected=rows * question.pictures * tokens if before else None,
            tower_layers=sizes.vision.layers - int(before),  # LLaVA's last layer is not used, and not run
            at_once=None if kept is None else AT_ONCE,
        )
        if kept is not None and self.method.prunes_llm:
            work = replace(work, prefill=self._lengths(question, kept, list(work.prefill)))
        calls = self._stock if kept is None else self._own
        # Methods that choose one token after the other take as many steps whatever the batch, once they are batched; until
        # then for every picture.
        chosen = 0 if kept is None else kept * rows * question.pictures
        device, dtype = question.device, question.dtype
        return predict(sizes, work, calls, device, dtype, compiled=question.compiled, kept=chosen)

    def _lengths(self, question: Question, kept: int, short: list[int]) -> list[int]:
        """Tokens that each layer of the language model sees, where a method drops them there."""
        layers, total = self.sizes.language.layers, question.shape.image_tokens
        whole = question.pictures * total + question.text_tokens
        if not hasattr(self.method, "stages"):
            first = self.method.first_short_layer(layers)
            return [whole] * first + short[first:]
        method: Any = get_method(self.method, budget=kept)
        lengths, now = [whole] * layers, total
        for stage, first in enumerate(method.cuts(layers)):
            now = method.after(stage, total, now)
            lengths[first:] = [question.pictures * now + question.text_tokens] * (layers - first)
        return lengths

    def budgets(self) -> list[int]:
        """Numbers of tokens to show, the one that was asked for among them."""
        total = self._question.shape.image_tokens
        return sorted({max(round(share * total), 1) for share in _SHARES} | {self._question.kept})

    def load(self, kept: int | None) -> Load:
        """For the memory formulas."""
        question = self._question
        tokens = question.pictures * (question.shape.image_tokens if kept is None else kept)
        new, text = question.new_tokens, question.text_tokens
        return Load(self.sizes, tokens, text, new, question.pictures, reduced=kept is not None)

    def memory(self) -> dict[str, Any]:
        """Bytes of this request, and the most requests that the device's memory holds."""
        question = self._question
        element = 4 if question.dtype == "float32" else 2
        found: dict[str, Any] = {"device_bytes": question.device.memory}
        for name, load in (("full", self.load(None)), ("reduced", self.load(question.kept))):
            found[f"{name}_bytes"] = needed_bytes(load, question.clients, element)
            found[f"{name}_most"] = largest_batch(load, int(question.device.memory), element)
        return found


def _reason(question: Question, asked: _Asked, full: Times, reduced: Times) -> str | None:
    """What keeps fewer tokens from helping; None where they help."""
    whole, saved = full.whole, full.whole - reduced.whole
    if whole >= HELPS * reduced.whole:
        return None
    if reduced.stages["choosing"] > max(saved + reduced.stages["choosing"], 0.0) * 0.5 and question.device.overlaps:
        return "choosing"
    if full.launches > 0.4 * whole:
        return "launches"
    largest = max(("vision", "decode", "prefill", "other"), key=full.stages.__getitem__)
    return "prompt" if largest == "prefill" else largest


def _remedies(question: Question, asked: _Asked) -> list[dict[str, Any]]:
    """Changes of the request or of how it is run with which fewer tokens help."""
    changes: list[tuple[str, Question]] = []
    if not question.compiled:
        changes.append(("compile", replace(question, compiled=True)))
    changes += [(f"{n} clients", replace(question, clients=n)) for n in _CLIENTS if n > question.clients]
    if not question.compiled:
        more = [n for n in _CLIENTS if n > question.clients]
        changes += [(f"compile and {n} clients", replace(question, compiled=True, clients=n)) for n in more]
    found = []
    for name, changed in changes:
        speedup = asked.times(changed, None).whole / asked.times(changed, question.kept).whole
        if speedup >= HELPS:
            found.append({"change": name, "clients": changed.clients, "compiled": changed.compiled, "speedup": speedup})
    return found


def _verdict(question: Question, asked: _Asked, speedup: float, reason: str | None) -> str:
    """One line."""
    name = f"{question.kept} of {question.shape.image_tokens} image tokens, batch {question.clients}"
    if reason is None:
        return f"{name}: expect {speedup:.1f}x"
    why = {
        "choosing": f"choosing by {question.method!r} takes as long as the language model saves",
        "launches": f"this GPU waits for launches at batch {question.clients}",
        "vision": "the vision tower takes most of the time, and tokens are dropped behind it",
        "decode": "decoding takes most of the time: it reads all weights for every new token, whatever the prompt's length",
        "other": "generate itself takes most of the time",
        "prompt": "the text of the prompt is most of it",
    }[reason]
    best = _first(_remedies(question, asked), _bar(speedup))
    return f"{name}: {why}: expect {speedup:.1f}x{best}"


def _bar(speedup: float) -> float:
    """What a remedy has to reach to be named first."""
    return max(1.3, 1.2 * speedup)


def _first(remedies: list[dict[str, Any]], bar: float) -> str:
    """The mildest change of each kind that is worth it."""
    named: dict[tuple[bool, bool], dict[str, Any]] = {}
    for each in remedies:
        if each["speedup"] >= bar:
            named.setdefault((each["compiled"], "client" in each["change"]), each)
    simple = [each for key, each in named.items() if key != (True, True)] or list(named.values())
    if not simple:
        simple = sorted(remedies, key=lambda each: -each["speedup"])[:1]
    if not simple:
        return ", and nothing tried here changes that"
    return "; " + ", or ".join(f"{each['change']}: {each['speedup']:.1f}x" for each in simple)


def _budget(question: Question, asked: _Asked, full: Times, tokens: int) -> dict[str, Any]:
    """What one number of tokens buys."""
    times = asked.times(question, tokens)
    element = 4 if question.dtype == "float32" else 2
    return {
        "tokens": tokens,
        "share": tokens / question.shape.image_tokens,
        "seconds": times.whole,
        "speedup": full.whole / times.whole,
        "requests_per_s": question.clients / times.whole,
        "most_requests": largest_batch(asked.load(tokens), int(question.device.memory), element),
    }


def _shown(times: Times) -> dict[str, Any]:
    whole = times.whole
    return {
        "seconds": whole,
        "first_token_s": times.first,
        "stages_s": times.stages,
        "shares": {name: value / whole for name, value in times.stages.items()},
        "waiting_for_launches": math.fsum([times.launches]) / whole,
    }


def _plain(question: Question) -> dict[str, Any]:
    names = ("dtype", "method", "pictures", "text_tokens", "new_tokens", "clients", "compiled")
    return {**{name: getattr(question, name) for name in names}, "tokens": question.kept}
