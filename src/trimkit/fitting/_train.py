"""The second part of a fit: both targets in turn, and which of them is kept, at which temperature."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimkit.core.types import ImageTokens
from trimkit.errors import InputError
from trimkit.eval.identity import method_identity
from trimkit.fitting._collect import Phase
from trimkit.fitting._divergence import Reader
from trimkit.fitting._guard import guard_method
from trimkit.fitting._networks import FittedWords, word_embeddings
from trimkit.fitting._records import PairRecord, pairs_of
from trimkit.fitting._settings import ADDED, BUDGETS, COMPARED, LAYER_PAIRS, LOOKED_AT, TEMPERATURES, FitSettings
from trimkit.fitting._targets import answer_loss, attention_loss, choose_layers, layer_prompts
from trimkit.fitting._training import Progress, Training
from trimkit.io.files import write_atomically
from trimkit.io.reading import read_json
from trimkit.io.text import json_text
from trimkit.scorers import NetworkShape, width_for

__all__ = ["Split", "Trained", "new_network", "split_pictures", "train"]

_LAYERS = "layers.json"
Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class Split:
    """Pairs by what they are for; a picture is in one part alone."""

    train: Pairs
    valid: Pairs
    guard: Pairs


@dataclass(frozen=True)
class Trained:
    """What came out.

    Attributes:
        network: the better one's.
        target: which it was fitted to, and ``temperature`` that its relevance is divided by.
        held_out: divergence of ``focus`` on the pictures that early stopping goes by: of each target at each temperature, and
            of the kept one with more of what it builds on (``added``, by how much).
        curves: by target.
        layers: side and layer of the attention that was aimed at.
        best_steps: by target, where the best weights were.
    """

    network: FittedWords
    target: str
    temperature: float
    held_out: dict[str, dict[str, float]]
    curves: dict[str, list[dict[str, float]]]
    layers: list[tuple[int, int]]
    best_steps: dict[str, int]


def split_pictures(reader: Reader, numbers: Sequence[int], seed: int) -> Split:
    """A fifth of the pictures for the guard, a tenth for early stopping, the rest to fit."""
    drawn = list(numbers)
    random.Random(f"{seed}/split").shuffle(drawn)
    last, valid = round(len(drawn) * 0.2), round(len(drawn) * 0.1)
    parts = (drawn[last + valid :], drawn[last : last + valid], drawn[:last])
    return Split(*(pairs_of(reader.store, sorted(part)) for part in parts))


def new_network(
    model: Any, tower_parameters: int, width: int, settings: FitSettings, *, builds_on: bool
) -> FittedWords:
    """A network with weights drawn by the seed, on the model's device.

    Args:
        model: the model.
        tower_parameters: of its vision tower, of which the network is to be a share.
        width: of the patch features.
        settings: of the fit.
        builds_on: whether it starts from the relevance that the model has without it.
    """
    embeddings = word_embeddings(model)
    most = int(tower_parameters * settings.most_share)
    chosen = settings.width or width_for(width, len(embeddings), most)
    shape = NetworkShape(width, len(embeddings), chosen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return FittedWords(shape, embeddings, builds_on=builds_on).to(model.device)


def train(
    reader: Reader, network: FittedWords, tokenizer: Any, split: Split, settings: FitSettings, work: Path, phase: Phase
) -> Trained:
    """Fit to each target in turn, and keep the better by held-out pictures.

    The answer is gone after from the start or from what attention has given, whichever leaves the model nearer to its own.
    """
    identity = _identity(split, settings)
    layers = _layers(reader, split, work, identity, phase)
    runs = _Runs(reader, network, tokenizer, split, settings, layers)
    progress: dict[str, Progress] = {}
    held_out: dict[str, dict[str, float]] = {}
    states = {}
    start = runs.state()
    for target in settings.targets:
        if target == "answer":
            runs.take_nearer(start)
        progress[target] = runs.run(target, work, identity, phase)
        held_out[target] = runs.by_temperature()
        states[target] = runs.state()
    target, heat = min(
        ((name, key) for name, found in held_out.items() for key in found), key=lambda each: held_out[each[0]][each[1]]
    )
    network.load_state_dict(states[target])
    if network.builds_on:
        with phase("CLIP's relevance added", len(ADDED)) as advance:
            held_out["added"] = runs.add_base(float(heat), held_out[target][heat], advance)
    return Trained(
        network=network,
        target=target,
        temperature=float(heat),
        held_out=held_out,
        curves={name: each.curve for name, each in progress.items()},
        layers=layers,
        best_steps={name: each.best_step for name, each in progress.items()},
    )


def _identity(split: Split, settings: FitSettings) -> str:
    """Of a training: the same only with the same pictures to fit, to stop and to judge by, settings, and way of judging."""
    plain = {name: value for name, value in settings.to_plain().items() if name != "cache_gb"}
    parts = [split.train, split.valid, split.guard]
    judged = [LOOKED_AT, COMPARED, [method_identity(guard_method(share)) for share in BUDGETS]]
    return hashlib.blake2b(json_text([plain, parts, judged]).encode(), digest_size=16).hexdigest()


def _spread(pairs: Pairs, most: int) -> Pairs:
    """At most so many, evenly from all of them."""
    return pairs[:: -(-len(pairs) // most)]


def _layers(reader: Reader, split: Split, work: Path, identity: str, phase: Phase) -> list[tuple[int, int]]:
    path = work / _LAYERS
    try:
        told: Any = read_json(path) if path.exists() else {"identity": None}
        if told["identity"] == identity:
            return [(int(side), int(layer)) for side, layer in told["layers"]]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} does not name layers: remove it") from None
    pairs = _spread(split.train, LAYER_PAIRS)
    depth = reader.store.get(pairs[0][0]).pairs[0].attention.shape[1]
    with phase("layers", layer_prompts(depth, len(pairs))) as advance:
        found = choose_layers(reader, pairs, advance)
    text = json_text({"identity": identity, "layers": found})
    write_atomically(path, lambda file: file.write(text.encode()))
    return [(int(side), int(layer)) for side, layer in found]


class _Runs:
    """Both targets' training of one network."""

    def __init__(
        self,
        reader: Reader,
        network: FittedWords,
        tokenizer: Any,
        split: Split,
        settings: FitSettings,
        layers: list[tuple[int, int]],
    ) -> None:
        self._reader, self._network, self._tokenizer = reader, network, tokenizer
        self._split, self._settings, self._layers = split, settings, layers
        self._looked_at, self._compared = (_spread(split.valid, most) for most in (LOOKED_AT, COMPARED))

    def run(self, target: str, work: Path, identity: str, phase: Phase) -> Progress:
        """One target, to its end."""
        losses = {
            "attention": (self._attention, self._attention_held_out),
            "answer": (self._answer, self._answer_held_out),
        }
        loss, held_out = losses[target]
        settings = self._settings.of_target(target)
        training = Training(
            self._network,
            settings,
            target,
            work / f"{target}.safetensors",
            identity=identity,
            loss=loss,
            held_out=held_out,
            pairs=len(self._split.train),
        )
        with phase(f"fit to the {target}", settings.steps) as advance:
            return training.run(advance)

    def state(self) -> dict[str, Tensor]:
        """A copy of the network's weights."""
        return {name: value.detach().clone() for name, value in self._network.state_dict().items()}

    def take_nearer(self, other: dict[str, Tensor]) -> None:
        """Of the network's weights and ``other`` those with which the model's answers stay nearer."""
        own, near = self.state(), self._answer_held_out()
        self._network.load_state_dict(other)
        if self._answer_held_out() > near:
            self._network.load_state_dict(own)

    def by_temperature(self) -> dict[str, float]:
        """Mean divergence of ``focus`` over the budgets, on held-out pairs, by the temperature of the relevance."""
        return {f"{heat:g}": self._far(heat) for heat in TEMPERATURES}

    def add_base(self, heat: float, without: float, advance: Callable[[int], None]) -> dict[str, float]:
        """Leave the network with as much more of what it builds on as brings the model nearest, perhaps none.

        Training takes little of it back where it is right: on pictures of which most are answered with any choice.

        Args:
            heat: temperature of the relevance.
            without: divergence as it is.
            advance: called with 1 for each that has been tried.

        Returns:
            Divergence by what was added.
        """
        found, before = {0.0: without}, self.state()
        start = self._network.network.base_weight.item()
        for added in ADDED:
            self._network.network.set_base_weight(start + added)
            found[added] = self._far(heat)
            advance(1)
        best = min(found, key=lambda added: found[added])
        self._network.load_state_dict(before)  # to the bit, where nothing is added
        if best:
            self._network.network.set_base_weight(start + best)
        return {f"{added:g}": far for added, far in found.items()}

    def _far(self, heat: float) -> float:
        rows = [self._reader.measure(self._compared, self._rank, guard_method(share, heat))[0] for share in BUDGETS]
        return float(sum(row.mean() for row in rows) / len(rows))

    def _batch(self, numbers: Sequence[int]) -> tuple[list[ImageTokens], list[PairRecord]]:
        return self._reader.batch([self._split.train[number] for number in numbers])

    def _attention(self, numbers: list[int], draw: random.Random) -> Tensor:
        images, pairs = self._batch(numbers)
        return attention_loss(self._network, images, pairs, self._tokenizer, self._layers)

    @torch.no_grad()
    def _attention_held_out(self) -> float:
        images, pairs = self._reader.batch(self._looked_at)
        return float(attention_loss(self._network, images, pairs, self._tokenizer, self._layers))

    def _answer(self, numbers: list[int], draw: random.Random) -> Tensor:
        images, pairs = self._batch(numbers)
        return answer_loss(self._reader, self._network, images, pairs, self._tokenizer, draw, self._settings.shares)

    def _answer_held_out(self) -> float:
        rows = []
        for share in BUDGETS[1:]:
            rows.append(self._reader.measure(self._looked_at, self._rank, guard_method(share))[0].mean())
        return float(sum(rows) / len(rows))

    @torch.no_grad()
    def _rank(self, images: Sequence[ImageTokens], pairs: Sequence[PairRecord]) -> list[Tensor]:
        return self._network.rank(images, pairs, self._tokenizer)
