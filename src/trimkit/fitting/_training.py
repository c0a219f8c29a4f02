"""One target's training: batches and budgets that depend on the step alone, a look at held-out pictures, a state on disk.

A run that is killed goes on from the last state that was saved, and gives the same weights to the bit: nothing random is
carried from one step to the next.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from trimkit.errors import InputError
from trimkit.fitting._settings import FitSettings
from trimkit.io.files import write_atomically

__all__ = ["Progress", "Training", "learning_rate"]

_WARM_UP = 0.05  # of the steps
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        step: steps done.
        best: the lowest held-out measure so far, and ``best_step`` where.
        curve: ``{"step", "loss", "held_out"}`` of every look; the one before the first step has no loss.
        weights: of the best look, by name.
        ended: whether nothing is left to do.
    """

    step: int = 0
    best: float = math.inf
    best_step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    ended: bool = False


class Training:
    """Trains a network in place.

    Args:
        network: the network.
        settings: steps, learning rate, seed and the like.
        target: its name, which the batches depend on as well.
        path: of the state.
        identity: what has to be equal for the state to be gone on from; another one's is not read.
        loss: of a batch: pair numbers and what budgets are drawn from.
        held_out: the measure of the network as it is, lower = better.
        pairs: how many pairs there are.

    Raises:
        InputError: a state that cannot be read.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: FitSettings,
        target: str,
        path: Path,
        *,
        identity: str,
        loss: Callable[[list[int], random.Random], Tensor],
        held_out: Callable[[], float],
        pairs: int,
    ) -> None:
        self._network, self._settings, self._target, self._path = network, settings, target, path
        self._identity, self._loss, self._held_out, self._pairs = identity, loss, held_out, pairs
        self._trained = {name: each for name, each in network.named_parameters() if each.requires_grad}
        self._optimizer = torch.optim.AdamW(self._trained.values(), lr=settings.learning_rate, weight_decay=0.01)
        self.progress = Progress()

    def run(self, advance: Callable[[int], None]) -> Progress:
        """Train to the end; the network then has the best weights. ``advance`` is called with the steps done."""
        self._resume()
        if self.progress.step == 0:
            self._look(None)
        advance(self.progress.step)
        recent: list[float] = []
        while not self.progress.ended:
            recent.append(self._step())
            advance(1)
            last = self.progress.step == self._settings.steps
            if last or self.progress.step % self._settings.every == 0:
                self._look(sum(recent) / len(recent), last=last)
                recent = []
                self._save()
        advance(self._settings.steps - self.progress.step)  # those that early stopping has saved
        with torch.no_grad():
            for name, weight in self.progress.weights.items():
                self._trained[name].copy_(weight)
        return self.progress

    def _step(self) -> float:
        step, settings = self.progress.step, self._settings
        draw = random.Random(f"{settings.seed}/{self._target}/{step}")
        batch = draw.sample(range(self._pairs), min(settings.batch, self._pairs))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(settings, step, self._target)
        loss = self._loss(batch, draw)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
        self._optimizer.step()
        self.progress.step += 1
        return float(loss.detach())

    def _look(self, loss: float | None, *, last: bool = False) -> None:
        progress = self.progress
        measure = self._held_out()
        progress.curve.append({"step": progress.step, "held_out": measure} | ({} if loss is None else {"loss": loss}))
        if measure < progress.best:
            progress.best, progress.best_step = measure, progress.step
            progress.weights = {name: each.detach().clone() for name, each in self._trained.items()}
        waited = (progress.step - progress.best_step) // self._settings.every
        progress.ended = last or waited >= self._settings.patience

    def _save(self) -> None:
        progress = self.progress
        tensors = {f"now.{name}": each.detach() for name, each in self._trained.items()}
        tensors |= {f"best.{name}": each for name, each in progress.weights.items()}
        for name, each in self._trained.items():
            for key in _MOMENTS if each in self._optimizer.state else ():  # a weight that no loss has reached has none
                tensors[f"{key}.{name}"] = self._optimizer.state[each][key]
        told = {name: getattr(progress, name) for name in ("step", "best", "best_step", "curve", "ended")}
        about = {"progress": json.dumps(told), "identity": self._identity}
        data = save({name: each.cpu().contiguous() for name, each in tensors.items()}, about)
        write_atomically(self._path, lambda file: file.write(data))

    def _resume(self) -> None:
        if not self._path.exists():
            return
        try:
            with safe_open(self._path, framework="pt") as file:
                about = file.metadata()
                if about["identity"] != self._identity:
                    return
                told = json.loads(about["progress"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            self._take(Progress(**told), tensors)
        except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"cannot read {str(self._path)!r} ({error}): remove it, and this part is run again"
            ) from None

    @torch.no_grad()
    def _take(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        self.progress = progress
        for name, each in self._trained.items():
            each.copy_(tensors[f"now.{name}"])
            if f"{_MOMENTS[0]}.{name}" in tensors:
                self._optimizer.state[each] = self._moments(tensors, name, each)
        found = {name: tensors.get(f"best.{name}") for name in self._trained}
        progress.weights = {name: each for name, each in found.items() if each is not None}

    def _moments(self, tensors: dict[str, Tensor], name: str, weight: Tensor) -> dict[str, Any]:
        moments = {key: tensors[f"{key}.{name}"].to(weight.device) for key in _MOMENTS}
        return {"step": torch.tensor(float(self.progress.step)), **moments}


def learning_rate(settings: FitSettings, step: int, target: str = "attention") -> float:
    """At a step: up in a line over the first twentieth, then down along half a cosine."""
    warm = max(1, round(settings.steps * _WARM_UP))
    rise = min(1.0, (step + 1) / warm)
    highest = settings.answer_rate if target == "answer" else settings.learning_rate
    return highest * rise * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
