"""``bench``: one measurement from its settings to one plain object. What it measures: docs/efficiency.md."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from trimkit.bench import machine, result
from trimkit.bench.about import provenance, weights
from trimkit.bench.arms import Arm
from trimkit.bench.capacity import capacities
from trimkit.bench.formula import Sizes, sizes_of_shape
from trimkit.bench.measure import Advance, Counted, Round, calls_of, count, rounds
from trimkit.bench.plan import planned
from trimkit.bench.shapes import Shape, shape_of
from trimkit.bench.subject import Checkpoint, RandomModel, Subject
from trimkit.config import configured, exported_reduction
from trimkit.engines import check_engine
from trimkit.errors import ConfigError
from trimkit.loading import pick_device
from trimkit.methods import Method

__all__ = ["Settings", "bench", "steps_of"]

_SHARE = 0.21  # of the image tokens stays by default: 121 of 576, the paper's mean on LLaVA-1.5
_PREFILL_AS_TOKENS = 30
_MOST = {
    "pictures": 64,
    "batch size": 4096,
    "new tokens": 100_000,
    "repeats": 10_000,
    "questions": 1000,
    "threads": 4096,
}


@dataclass(frozen=True)
class Settings:
    """What to measure. Every combination of method, budget, batch size and length is an arm, and so is the stock model.

    Attributes:
        model: ``demo``, a directory or a hub id, with ``scorer`` as ``trimkit.reduce`` takes it; or else
        random: the name of a shape, built with random weights, of ``layers`` of its layers.
        methods: None is ``trim``, or what the config names.
        budgets: None is the config's or the method's own; for a random shape, whose relevance means nothing, 21 %.
        config: a file that ``trimkit calibrate`` wrote; what is given beside it wins.
        options: further options of the methods.
        tower_keeps: shares of the patches that the vision tower is run to its end on, for methods that read the text; None
            is all.
        tower_layer: layers that see all patches meanwhile; None is ``trimkit.reduce``'s own.
        vision_engines: what runs the tower of reduced calls; None is torch. The stock model's runs in torch.
        new_tokens, batch_sizes: lengths and rows of a call.
        pictures: of a prompt, for a random shape.
        questions: about each picture, one after the other.
        text_tokens: of the prompt beside the picture, for a random shape.
        repeats: timed runs of each arm.
        memory: bytes; the largest batch that they hold is worked out for every arm. None leaves that out.
        seed: of weights, inputs and intervals.
        device, dtype, threads: threads None is torch's own number.
    """

    model: str | None = None
    scorer: str | None = None
    random: str | None = None
    layers: int | None = None
    methods: tuple[str, ...] | None = None
    budgets: tuple[str, ...] | None = None
    config: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    tower_keeps: tuple[float | None, ...] = (None,)
    tower_layer: int | None = None
    vision_engines: tuple[str | None, ...] = (None,)
    new_tokens: tuple[int, ...] = (1,)
    batch_sizes: tuple[int, ...] = (1,)
    pictures: int = 1
    questions: int = 1
    text_tokens: int = 40
    repeats: int = 9
    memory: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigError: a number out of range, both a model and a shape, or layers of a checkpoint.
        """
        numbers = [("batch size", each) for each in self.batch_sizes]
        numbers += [("new tokens", each) for each in self.new_tokens]
        numbers += [("repeats", self.repeats), ("questions", self.questions), ("threads", self.threads or 1)]
        numbers += [("pictures", self.pictures)]
        for name, value in numbers:
            if not 1 <= value <= _MOST[name]:
                raise ConfigError(f"{name} {value} is outside 1 to {_MOST[name]}: give a number between")
        for share in self.tower_keeps:
            if share is not None and not 0.0 < share <= 1.0:
                raise ConfigError(f"tower share {share} is outside (0, 1]: give the share of patches that goes on")
        for engine in self.vision_engines:
            if engine is not None:
                check_engine(engine)
        if self.threads == 0:
            raise ConfigError("threads 0 is outside 1 to 4096: give a number between")
        if not 5 <= self.text_tokens <= 4000:
            raise ConfigError(f"text tokens {self.text_tokens} is outside 5 to 4000: give a number between")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed {self.seed} is outside 0 to 2147483647: give a number between")
        if self.model is not None and self.random is not None:
            raise ConfigError("both a model and a random shape are named: give --model or --random")
        if self.scorer is not None and self.random is not None:
            raise ConfigError("a random shape brings its own scorer: leave --scorer out, or give --model")
        if self.pictures > 1 and self.random is None:
            raise ConfigError("a checkpoint is asked about one picture a prompt: give --random with --pictures")
        if self.memory is not None and self.memory <= 0:
            raise ConfigError("memory has to be more than nothing: give gigabytes, for example 80")
        if self.layers is not None and self.random is None:
            raise ConfigError("layers can be chosen for a random shape only: give --random with --layers")
        if self.methods == () or not self.new_tokens or not self.batch_sizes:
            raise ConfigError("there is nothing to measure: give at least one method, length and batch size")


def bench(
    settings: Settings,
    *,
    advance: Advance = None,
    expect: Callable[[int], None] | None = None,
    warn: Callable[[str], None] = lambda line: print(f"trimkit: {line}", file=sys.stderr),
) -> dict[str, Any]:
    """Measure; all that can be refused is refused before a model is built.

    Args:
        settings: what to measure.
        advance: called with the steps done, as ``steps_of`` counts them.
        expect: called once, before the model is built, with how many there will be.
        warn: gets one line where a setting makes all times slow.

    Returns:
        ``arms``, ``ratios`` against the full arm, ``memory`` and ``provenance``; docs/efficiency.md lists their fields.

    Raises:
        TrimkitError: settings, device, memory or checkpoint; one line each.
    """
    device = pick_device(settings.device)
    shape = None if settings.random is None else shape_of(settings.random, settings.layers)
    methods = _methods(settings, shape)
    if expect is not None:
        expect(steps_of(settings))
    with machine.threads(settings.threads):
        subject = _checkpoint(settings, device) if shape is None else _random(settings, shape, device, warn)
        cells = itertools.product(settings.batch_sizes, settings.new_tokens)
        parts = [_cell(settings, subject, shape, methods, *cell, advance) for cell in cells]
        about = provenance(asdict(settings), subject, shape)
    return {
        "arms": [arm for part in parts for arm in part["arms"]],
        "ratios": [entry for part in parts for entry in part["ratios"]],
        "memory": [entry for part in parts for entry in part["memory"]],
        "capacity": _capacity(settings, subject, [arm for part in parts for arm in part["arms"]]),
        "provenance": about,
    }


def steps_of(settings: Settings) -> int:
    """How many steps ``bench`` reports to ``advance``.

    Raises:
        TrimkitError: methods or shape.
    """
    shape = None if settings.random is None else shape_of(settings.random, settings.layers)
    arms = 1 + len(_kept(settings, _methods(settings, shape)))
    cells = itertools.product(settings.batch_sizes, settings.new_tokens)
    return sum(_weight(*cell) for cell in cells) * calls_of(arms, settings.repeats, settings.questions)


def _weight(batch: int, new_tokens: int) -> int:
    """What a call costs beside others, about: a picture's prefill takes as long as so many new tokens."""
    return batch * (_PREFILL_AS_TOKENS + new_tokens)


def _kept(settings: Settings, methods: list[Method]) -> list[tuple[Method, float | None, str | None]]:
    """Every method with every share of the tower's patches, where it reads text, and with every engine."""
    return [
        (method, keep, engine)
        for method in methods
        for keep in (settings.tower_keeps if method.uses_text else (None,))
        for engine in settings.vision_engines
    ]


def _methods(settings: Settings, shape: Shape | None) -> list[Method]:
    """Every method at every budget; ``none`` is left out, since the stock model is measured anyway."""
    own: list[Any] = [None]
    if shape is not None and settings.config is None:
        own = [max(round(shape.image_tokens * _SHARE), 1)]
    budgets: list[Any] = own if settings.budgets is None else list(settings.budgets)
    found = []
    for name, budget in itertools.product(settings.methods or (None,), budgets):
        given = {} if budget is None else {"budget": budget}
        own_way = None if shape is not None or settings.config else exported_reduction(settings.model or "demo")
        method = configured(settings.config, name, own_way, **{**given, **settings.options})
        if method.name != "none":
            found.append(method)
    return found


def _random(settings: Settings, shape: Shape, device: torch.device, warn: Callable[[str], None]) -> Subject:
    slow: list[str] = []  # said after all that can be refused: a refusal is one line
    dtype = machine.pick_dtype(settings.dtype, device, slow.append)

    def sizes_with(layers: int) -> Sizes:
        return sizes_of_shape(shape_of(str(settings.random), layers))

    batch, tokens = max(settings.batch_sizes), settings.pictures * shape.image_tokens
    work = planned(
        sizes_of_shape(shape), batch, tokens, settings.text_tokens, max(settings.new_tokens), settings.pictures
    )
    machine.check_memory(str(settings.random), sizes_with, shape.layers, work, dtype, device)
    for line in slow:
        warn(line)
    return RandomModel(shape, settings.text_tokens, device, dtype, settings.seed, settings.pictures)


def _checkpoint(settings: Settings, device: torch.device) -> Subject:
    dtype = settings.dtype
    if dtype == "auto" and device.type == "cpu" and not machine.fast_bfloat16():
        dtype = "float32"
    return Checkpoint(settings.model or "demo", str(device), dtype, settings.scorer)


def _cell(
    settings: Settings,
    subject: Subject,
    shape: Shape | None,
    methods: list[Method],
    batch: int,
    new_tokens: int,
    advance: Advance,
) -> dict[str, list[Any]]:
    """All arms of one batch size and length."""
    keeps = _kept(settings, methods)
    arms = [Arm(subject, None, batch, new_tokens)]
    for method, keep, engine in keeps:
        layer = None if keep is None else settings.tower_layer
        arms.append(Arm(subject, method, batch, new_tokens, keep, layer, engine))

    def done(calls: int) -> None:
        if advance is not None:
            advance(calls * _weight(batch, new_tokens))

    counted = [count(arm, done) for arm in arms]
    turns = rounds(arms, settings.repeats, settings.questions, done)
    sizes, element = subject.sizes(), subject.model.dtype.itemsize
    deeper = shape.full_layers if shape is not None and shape.full_layers > shape.layers else 0
    held = weights(subject)

    def against(number: int) -> dict[str, Any]:
        pair = (counted[number], counted[0])
        return result.ratio_result(
            arms[number], pair, (turns[number], turns[0]), held, deeper, settings.seed, sizes, element
        )

    reduced = range(1, len(arms))
    memory = [result.memory_result(arms[n], counted[n], counted[0], sizes, element) for n in reduced]
    every: list[tuple[Arm, Counted, list[Round]]] = list(zip(arms, counted, turns, strict=True))
    return {
        "arms": [result.arm_result(*each, sizes, element, deeper) for each in every],
        "ratios": [against(number) for number in reduced],
        "memory": [entry for entry in memory if entry is not None],
    }


def _capacity(settings: Settings, subject: Subject, arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest batch of every arm that ``settings.memory`` holds, at full depth; nothing where the formulas do not hold."""
    whole = None if settings.random is None else sizes_of_shape(shape_of(settings.random))
    sizes = whole or subject.sizes()
    if settings.memory is None or sizes is None:
        return []
    return capacities(
        arms, sizes, settings.memory, subject.model.dtype.itemsize, settings.text_tokens, settings.pictures
    )
