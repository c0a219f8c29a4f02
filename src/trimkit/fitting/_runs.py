"""Trainings of one network to either target, and what its relevance then does to the model's answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimkit.core.types import ImageTokens
from trimkit.fitting._collect import Phase
from trimkit.fitting._divergence import Reader
from trimkit.fitting._guard import guard_method
from trimkit.fitting._networks import FittedWords
from trimkit.fitting._records import PairRecord
from trimkit.fitting._rows import set_name
from trimkit.fitting._settings import ADDED, BUDGETS, COMPARED, LOOKED_AT, TEMPERATURES, FitSettings
from trimkit.fitting._targets import Row, answer_loss, attention_loss
from trimkit.fitting._training import Progress, Training

__all__ = ["Pairs", "Runs", "Split", "spread"]

Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class Split:
    """Pairs by what they are for; a picture is in one part alone."""

    train: Pairs
    valid: Pairs
    guard: Pairs


def spread(pairs: Pairs, most: int) -> Pairs:
    """At most so many, evenly from all of them."""
    return pairs[:: -(-len(pairs) // most)]


class Runs:
    """Trainings of one network, each of which starts from the weights that it has.

    Attributes:
        rows: of the attention that is aimed at.
    """

    def __init__(
        self,
        reader: Reader,
        network: FittedWords,
        tokenizer: Any,
        split: Split,
        settings: FitSettings,
    ) -> None:
        self._reader, self._network, self._tokenizer = reader, network, tokenizer
        self._split, self._settings = split, settings
        self.rows: list[Row] = []
        self._looked_at, self._compared = (spread(split.valid, most) for most in (LOOKED_AT, COMPARED))

    def run(self, target: str, work: Path, identity: str, phase: Phase) -> Progress:
        """One target, to its end."""
        settings = self._settings.of_target(target)
        with phase(f"fit to the {target}", settings.steps) as advance:
            return self._training(target, settings, work / f"{target}.safetensors", identity).run(advance)

    def race(self, sets: Sequence[list[Row]], work: Path, identity: str, phase: Phase) -> dict[str, float]:
        """Aim at that of ``sets`` with which a short training leaves the model's answers nearest, by held-out pictures.

        Returns:
            Divergence by set, in the order of ``sets``.
        """
        settings, start, found = self._settings.of_race(), self.state(), []
        with phase("attention that can be learned", settings.steps * len(sets)) as advance:
            for number, self.rows in enumerate(sets):
                path = work / f"rows-{number}.safetensors"
                self._training("attention", settings, path, f"{identity}/{set_name(self.rows)}").run(advance)
                found.append(self._far(1.0))
                self._network.load_state_dict(start)
        self.rows = sets[found.index(min(found))]
        return {set_name(rows): far for rows, far in zip(sets, found, strict=True)}

    def _training(self, target: str, settings: FitSettings, path: Path, identity: str) -> Training:
        losses = {
            "attention": (self._attention, self._attention_held_out),
            "answer": (self._answer, self._answer_held_out),
        }
        loss, held_out = losses[target]
        asked: dict[str, Any] = {"identity": identity, "loss": loss, "held_out": held_out}
        return Training(self._network, settings, target, path, pairs=len(self._split.train), **asked)

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
        return attention_loss(self._network, images, pairs, self._tokenizer, self.rows)

    @torch.no_grad()
    def _attention_held_out(self) -> float:
        images, pairs = self._reader.batch(self._looked_at)
        return float(attention_loss(self._network, images, pairs, self._tokenizer, self.rows))

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
