"""``trimkit.fitting.fit``: from pictures to a folder that ``scorer=`` takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimkit.core.types import EncoderProfile
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.fitting._attention_read import decoder_layers
from trimkit.fitting._card import model_card
from trimkit.fitting._collect import (
    Phase,
    check_pairs,
    collect,
    find_questions,
    identity_of,
    make_forecast,
)
from trimkit.fitting._divergence import Reader
from trimkit.fitting._forecast import Forecast
from trimkit.fitting._guard import Verdict, guard
from trimkit.fitting._records import RecordStore
from trimkit.fitting._runs import Split
from trimkit.fitting._settings import FitSettings
from trimkit.fitting._teacher import Teacher
from trimkit.fitting._train import Trained, new_network, split_pictures, train
from trimkit.io.directories import built, new_directory
from trimkit.io.files import resolved, user_path, write_atomically
from trimkit.io.provenance import hardware, versions
from trimkit.io.text import json_text
from trimkit.pipeline.model_store import scorer_of, scorer_source
from trimkit.scorers import ClipNativeScorer, FittedScorer, Scorer, fingerprint_of, write_fitted
from trimkit.scorers.fitted_pictures import picture_mark

__all__ = ["Fitting", "fit", "tower_parameters"]

REPORT = "fit.json"
CARD = "README.md"
_OUTSIDE = ("language_model", "lm_head", "embed_tokens", "project", "connector")


@dataclass(frozen=True)
class Fitting:
    """What was fitted, and what the guard says of it.

    Attributes:
        scorer: ready for ``scorer=``.
        verdict: the guard's.
        written: the folder, or None where nothing was written: without the guard's consent, or without an output.
        told: all of it as JSON.
    """

    scorer: FittedScorer
    verdict: Verdict
    written: Path | None
    told: dict[str, Any]


def fit(
    model: Any,
    processor: Any,
    pictures: Mapping[str, Any],
    questions: Any = None,
    output: str | Path | None = None,
    *,
    work: str | Path,
    settings: FitSettings | None = None,
    scorer: Any = None,
    name: str = "",
    force: bool = False,
    phase: Phase | None = None,
    announce: Callable[[Forecast], None] | None = None,
) -> Fitting:
    """Fit a small scorer to a model, without labels.

    The model answers every question with all image tokens, once. The scorer learns where it looked, then what leaves its
    answer as it is. On pictures held out, a guard compares it with the relevance that the model has without it.

    Args:
        model, processor: as ``trimkit.loading.load_model`` gives them; the model is left as it was.
        pictures: by name; PIL images.
        questions: for every picture, or by its name; None lets the model ask them itself.
        output: the folder to write, new or empty; None writes nothing.
        work: a folder for features, answers and states. A fit that was interrupted goes on from it, and ends with the same
            weights to the bit (on a CPU with as many threads).
        settings: see ``FitSettings``.
        scorer: what it is compared with, as ``trimkit.reduce`` takes it; by default the model's own.
        name: of the model, for the model card.
        force: write the folder although the guard has not found it better.
        phase: shows how far each part of the work is.
        announce: is given what the fit will take, before it starts.

    Raises:
        InputError: too few pictures, one question only; or the disk refuses, for example because it is full.
        ConfigError: ``output`` is there already, or ``work`` holds another fit.
        UnsupportedError: the model's pictures or its language model are not of the kind that this is made for.
    """
    settings, work = settings or FitSettings(), user_path(work)
    target = _target(output, work)
    show = phase or _silent
    decoder_layers(model)
    baseline = scorer_of(model, scorer)
    started = time.perf_counter()
    with _frozen(model):
        teacher = Teacher(model, processor, baseline, settings.max_new_tokens)
        asked = find_questions(model, processor, pictures, questions, settings, work, show)
        groups = check_pairs(pictures, asked, settings, teacher)
        identity = identity_of(model, groups, settings, baseline)
        store = RecordStore(work / "records", identity, int(settings.cache_gb * 1e9))
        reader = Reader(model, store)
        expected = make_forecast(teacher, reader, groups, settings)
        (announce or _ignore)(expected)
        numbers = collect(teacher, store, groups, show)
        split = split_pictures(reader, numbers, settings.seed)
        tokenizer = getattr(processor, "tokenizer", processor)
        width = store.get(numbers[0]).image.features.shape[1]
        base = _base(model, scorer, baseline)
        network = new_network(model, tower_parameters(model), width, settings, builds_on=base is not None)
        trained = train(reader, network, tokenizer, split, settings, work, show)
        marks = frozenset(picture_mark(pairs[0].image) for pairs in groups)
        found = _scorer(model, trained, tokenizer, baseline if base is not None else None, marks)
        against = "no relevance (it covers the picture)" if baseline is None else _name_of(baseline)
        with show("guard", 1) as advance:
            verdict = guard(reader, split.guard, _ranking(found), 1.0, against, settings.seed)
            advance(1)
    told = _told(model, name, settings, questions, split, trained, verdict, expected, len(numbers))
    told["seconds"] = round(time.perf_counter() - started, 1)
    if target is None or not (verdict.better or force):
        return Fitting(found, verdict, None, told)
    profile = None if baseline is None else baseline.profile
    with built(target) as folder:
        own = (found.network, tokenizer, found.profile, fingerprint_of(model))
        write_fitted(folder, *own, base=base, base_profile=profile, fitted_on=marks)
        for file, text in ((REPORT, json_text(told)), (CARD, model_card(told))):
            write_atomically(folder / file, _writer(text))
    return Fitting(found, verdict, target, told)


def _target(output: str | Path | None, work: Path) -> Path | None:
    if output is None:
        return None
    target = new_directory(output, "a scorer")
    if resolved(work).is_relative_to(target):
        raise ConfigError(
            f"the work {str(work)!r} lies in the scorer's folder, which has to be empty: choose another place"
        )
    return target


def tower_parameters(model: Any) -> int:
    """Parameters of the vision tower: all that belong neither to the language model nor to the projector.

    Raises:
        UnsupportedError: there are none.
    """
    named = model.named_parameters()
    found: int = sum(each.numel() for name, each in named if not any(part in name for part in _OUTSIDE))
    if not found:
        raise UnsupportedError(f"{type(model).__name__} has no vision tower of its own")
    return found


def _base(model: Any, scorer: Any, baseline: Scorer | None) -> str | None:
    """The directory or hub id of the CLIP that the network builds on: one that reads the model's own features."""
    return scorer_source(model, scorer) if isinstance(baseline, ClipNativeScorer) else None


def _scorer(model: Any, trained: Trained, tokenizer: Any, base: Scorer | None, marks: frozenset[str]) -> FittedScorer:
    profile = EncoderProfile(sign=1, temperature=trained.temperature)
    network = trained.network.folded().to(model.device)
    return FittedScorer(
        network,
        tokenizer,
        profile,
        fingerprint=fingerprint_of(model),
        source="fitted",
        base=base,
        base_profile=None if base is None else base.profile,
        fitted_on=marks,
    )


def _ranking(scorer: FittedScorer) -> Any:
    """Through the scorer as it is used, not through the network that was trained."""
    heat = scorer.profile.temperature
    return lambda images, pairs: [row / heat for row in scorer.similarity(images, [pair.question for pair in pairs])]


def _told(
    model: Any,
    name: str,
    settings: FitSettings,
    questions: Any,
    split: Split,
    trained: Trained,
    verdict: Verdict,
    expected: Forecast,
    pictures: int,
) -> dict[str, Any]:
    shape = trained.network.network.shape
    pairs = {part: len(getattr(split, part)) for part in ("train", "valid", "guard")}
    return {
        "model": name or str(getattr(model.config, "_name_or_path", "")) or type(model).__name__,
        "guard": verdict.to_plain(),
        "target": trained.target,
        "temperature": trained.temperature,
        "held_out": trained.held_out,
        "curves": trained.curves,
        "best_steps": trained.best_steps,
        "attention_rows": [{"side": ("question", "answer")[side], "layer": layer} for side, layer in trained.layers],
        "parameters": shape.parameters,
        "parameters_share": shape.parameters / tower_parameters(model),
        "width": shape.width,
        "base_weight": float(trained.network.network.base_weight.detach()),
        "data": {
            "pictures": pictures,
            "pairs": sum(pairs.values()),
            "questions": "asked by the model" if questions is None else "given",
            **pairs,
        },
        "settings": settings.to_plain(),
        "forecast": expected.to_plain(),
        "versions": versions(),
        "hardware": hardware(str(model.device)),
    }


def _name_of(scorer: Scorer) -> str:
    return (
        "CLIP's relevance" if "clip" in type(scorer).__name__.lower() else f"the relevance of {type(scorer).__name__}"
    )


@contextlib.contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """No gradients for the model's weights; afterwards as before."""
    before = [(each, each.requires_grad) for each in model.parameters()]
    training = model.training
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for each, flag in before:
            each.requires_grad_(flag)
        model.train(training)


@contextlib.contextmanager
def _silent(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda steps: None


def _ignore(expected: Forecast) -> None:
    pass


def _writer(text: str) -> Callable[[Any], object]:
    return lambda file: file.write(text.encode())
