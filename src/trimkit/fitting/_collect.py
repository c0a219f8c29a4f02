"""The first part of a fit: pictures and questions to records, with what it will all take said before."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from trimkit.calibration import Pair, make_pairs
from trimkit.errors import InputError
from trimkit.eval.identity import scorer_identity, weights_identity
from trimkit.fitting._divergence import Reader
from trimkit.fitting._forecast import Forecast, forecast
from trimkit.fitting._guard import baseline_ranking, guard_method
from trimkit.fitting._questions import asked_by_model
from trimkit.fitting._records import RecordStore
from trimkit.fitting._settings import BUDGETS, MINIMUM_PICTURES, FitSettings
from trimkit.fitting._teacher import Teacher
from trimkit.io.files import check_writable, write_atomically
from trimkit.io.reading import read_json
from trimkit.io.text import json_text
from trimkit.scorers import Scorer

__all__ = ["Phase", "check_pairs", "collect", "find_questions", "identity_of", "make_forecast"]

Phase = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows a part of the work: its name and steps; gives what to call with the steps done."""

_QUESTIONS = "questions.json"
_HELD_OUT = 0.3  # of the pictures, about
_ROWS = 24  # prompts a call on a GPU


def find_questions(
    model: Any, processor: Any, pictures: Mapping[str, Any], given: Any, settings: FitSettings, work: Path, phase: Phase
) -> Any:
    """The user's questions; without any, the model's own, which are written down in ``work`` and asked for once.

    Raises:
        InputError: too few pictures, or ``work`` cannot be written: both before the model is asked.
    """
    _check_count(len(pictures))
    if given is not None:
        return given
    path = work / _QUESTIONS
    if path.exists():
        return _read_questions(path)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {str(work)!r} ({error.strerror}): choose another place") from None
    check_writable(path)
    with phase("questions", len(pictures)) as advance:
        found = asked_by_model(model, processor, pictures, settings.per_picture, advance)
    write_atomically(path, lambda file: file.write(json_text(found).encode()))
    return found


def _read_questions(path: Path) -> Any:
    found = read_json(path, remedy="remove it")
    own = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(each, list) and all(isinstance(text, str) for text in each) for each in own):
        raise InputError(
            f"{str(path)!r} does not hold the questions of pictures: remove it, and they are asked for again"
        )
    return found


def check_pairs(
    pictures: Mapping[str, Any], questions: Any, settings: FitSettings, teacher: Teacher
) -> list[list[Pair]]:
    """Pairs by picture, without those that the model cannot be asked.

    Raises:
        InputError: too few pictures, or one question only.
    """
    grouped: dict[int, list[Pair]] = {}
    for pair in make_pairs(pictures, questions, settings.per_picture):
        if not teacher.can_be_asked(pair):
            grouped.setdefault(pair.picture, []).append(pair)
    _check_count(len(grouped))
    asked = {pair.question for pairs in grouped.values() for pair in pairs}
    if len(asked) < 2:
        raise InputError(
            f"all pictures are asked one question only ({asked.pop()[:60]!r}): a scorer that reads the question needs several "
            "different ones; without --questions the model asks its own"
        )
    return list(grouped.values())


def _check_count(pictures: int) -> None:
    if pictures < MINIMUM_PICTURES:
        raise InputError(
            f"{pictures} pictures with a question are too few to fit a scorer and to decide whether it is better: give "
            f"{MINIMUM_PICTURES} or more (some hundreds are better)"
        )


def identity_of(
    model: Any, groups: Sequence[Sequence[Pair]], settings: FitSettings, baseline: Scorer | None
) -> dict[str, Any]:
    """What has to be equal for records to be used again: the model, language model included, what the scorer is compared with,
    pixels, questions, and the length of answers.
    """
    digest = hashlib.blake2b(digest_size=16)
    for group in groups:
        digest.update(np.asarray(group[0].image.convert("RGB")).tobytes())
        digest.update(json_text([group[0].name, [pair.question for pair in group]]).encode())
    return {
        "model": weights_identity(model),
        "baseline": None if baseline is None else scorer_identity(baseline),
        "pictures": len(groups),
        "content": digest.hexdigest(),
        "max_new_tokens": settings.max_new_tokens,
    }


def make_forecast(
    teacher: Teacher, reader: Reader, groups: Sequence[Sequence[Pair]], settings: FitSettings
) -> Forecast:
    """Time one picture and one prompt. The records are kept."""
    store = reader.store
    seconds = 0.0
    for number in (0, 1):  # the first one warms up
        started = time.perf_counter()
        record = teacher.records([groups[number]])[0]
        seconds = time.perf_counter() - started
        if not store.has(number):
            store.put(number, record)
    pairs = [(1, i) for i in range(len(groups[1]))]
    reader.measure(pairs, baseline_ranking, guard_method(BUDGETS[1]))
    started = time.perf_counter()
    reader.measure(pairs, baseline_ranking, guard_method(BUDGETS[1]))
    prompt = (time.perf_counter() - started) / len(pairs)
    record = store.get(1)
    tokens = len(record.image)
    return forecast(
        reader.model,
        settings,
        pictures=len(groups),
        tokens=tokens,
        text=max(len(pair.prompt["input_ids"]) for pair in record.pairs) - tokens,
        picture_seconds=seconds,
        prompt_seconds=prompt,
        picture_bytes=store.size(1),
        held_out=round(len(groups) * _HELD_OUT),
    )


def collect(teacher: Teacher, store: RecordStore, groups: Sequence[Sequence[Pair]], phase: Phase) -> list[int]:
    """Numbers of the pictures whose records are there in the end: all, or as many as the limit on disk leaves room for."""
    done = [number for number in range(len(groups)) if store.has(number)]
    missing = [number for number in range(len(groups)) if not store.has(number)]
    together = 1 if teacher.device.type == "cpu" else max(1, _ROWS // max(map(len, groups)))
    with phase("answers of the full model", len(groups)) as advance:
        advance(len(done))
        for start in range(0, len(missing), together):
            if store.full:
                break
            numbers = missing[start : start + together]
            for number, record in zip(numbers, teacher.records([groups[i] for i in numbers]), strict=True):
                store.put(number, record)
            done += numbers
            advance(len(numbers))
    if len(done) < MINIMUM_PICTURES:
        raise InputError(
            f"the records of {len(done)} pictures fill the {store.limit / 1e9:.2g} GB that they may take: allow more with "
            "--cache-gb"
        )
    return sorted(done)
