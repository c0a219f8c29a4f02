"""The second part of a fit: both targets in turn, and which of them is kept, at which temperature."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trimkit.errors import InputError
from trimkit.eval.identity import method_identity
from trimkit.fitting._collect import Phase
from trimkit.fitting._divergence import Reader
from trimkit.fitting._guard import guard_method
from trimkit.fitting._networks import FittedWords, word_embeddings
from trimkit.fitting._records import pairs_of
from trimkit.fitting._rows import row_prompts, row_sets
from trimkit.fitting._runs import Runs, Split, spread
from trimkit.fitting._settings import ADDED, BUDGETS, COMPARED, LAYER_PAIRS, LOOKED_AT, RACE, FitSettings
from trimkit.fitting._targets import Row
from trimkit.fitting._training import Progress
from trimkit.io.files import write_atomically
from trimkit.io.reading import read_json
from trimkit.io.text import json_text
from trimkit.scorers import NetworkShape, width_for

__all__ = ["Trained", "new_network", "split_pictures", "train"]

_LAYERS = "layers.json"


@dataclass(frozen=True)
class Trained:
    """What came out.

    Attributes:
        network: the better one's.
        target: which it was fitted to, and ``temperature`` that its relevance is divided by.
        held_out: divergence of ``focus`` on the pictures that early stopping goes by: of each target at each temperature, of
            the kept one with more of what it builds on (``added``, by how much), and of short trainings by the attention that
            they aimed at (``attention rows``).
        curves: by target.
        layers: side and layer of the attention that was aimed at.
        best_steps: by target, where the best weights were.
    """

    network: FittedWords
    target: str
    temperature: float
    held_out: dict[str, dict[str, float]]
    curves: dict[str, list[dict[str, float]]]
    layers: list[Row]
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
    runs = Runs(reader, network, tokenizer, split, settings)
    rows_tried = _aim(runs, reader, split, work, identity, phase) if "attention" in settings.targets else {}
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
    held_out["attention rows"] = rows_tried
    return Trained(
        network=network,
        target=target,
        temperature=float(heat),
        held_out=held_out,
        curves={name: each.curve for name, each in progress.items()},
        layers=runs.rows,
        best_steps={name: each.best_step for name, each in progress.items()},
    )


def _identity(split: Split, settings: FitSettings) -> str:
    """Of a training: the same only with the same pictures to fit, to stop and to judge by, settings, and way of judging."""
    plain = {name: value for name, value in settings.to_plain().items() if name != "cache_gb"}
    parts = [split.train, split.valid, split.guard]
    judged = [LOOKED_AT, COMPARED, RACE, [method_identity(guard_method(share)) for share in BUDGETS]]
    return hashlib.blake2b(json_text([plain, parts, judged]).encode(), digest_size=16).hexdigest()


def _aim(runs: Runs, reader: Reader, split: Split, work: Path, identity: str, phase: Phase) -> dict[str, float]:
    """Choose the attention that is aimed at, or read from ``work`` what was chosen: divergence by set that was tried."""
    path = work / _LAYERS
    try:
        told: Any = read_json(path) if path.exists() else {"identity": None}
        if told["identity"] == identity:
            runs.rows = [(int(side), int(layer)) for side, layer in told["layers"]]
            return {str(name): float(far) for name, far in told["tried"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{path} does not name layers: remove it") from None
    pairs = spread(split.train, LAYER_PAIRS)
    depth = reader.store.get(pairs[0][0]).pairs[0].attention.shape[1]
    with phase("layers", row_prompts(depth, len(pairs))) as advance:
        sets = row_sets(reader, pairs, advance)
    tried = runs.race(sets, work, identity, phase)
    text = json_text({"identity": identity, "layers": runs.rows, "tried": tried})
    write_atomically(path, lambda file: file.write(text.encode()))
    for number in range(len(sets)):
        (work / f"rows-{number}.safetensors").unlink(missing_ok=True)
    return tried
