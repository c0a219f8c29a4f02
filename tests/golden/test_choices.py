"""Every method keeps the tokens it kept before choosing was rebuilt for batches and GPUs, scene by scene, alone or in a batch.

``vectors/choices_500.npz`` was made on the demo model in float32 by ``python -m tests.golden.make_choices``: what each method
keeps of 500 scenes with its defaults. It dates from commit b5121a6, before the batched loops; for the methods that were brought
in line with their published code since (cdpruner, dart, divprune, prumerge, prumerge-plus, visionzip) it holds 200 scenes, from
before those loops, too. ``dart-tower`` is what ``dart`` was. ``vectors/choices_more.npz`` holds the first 40 scenes for methods
that came later: as each chose when it came, whose rightness the vectors of published code show. Rounding on another processor
can turn a choice between two equal patches, hence the one scene in 200.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trimkit
from trimkit.ask import build_inputs
from trimkit.demo import load_demo
from trimkit.demo.items import sample_item
from trimkit.pipeline.encoding import shared_encoder

SEED = 414141
SCENES = 500
QUICK = 8
TURNED = 1 / 200  # share of the scenes
# The released code takes quartiles of the whole batch; attention in the language model is rounded with the batch.
BY_BATCH = ("trim-released", "fastv", "dart", "pyramiddrop", "sparsevlm", "sparsevlm-plus")
# By method, the share of a scene's tokens that stays on any processor. vispruner thins a list sorted by attention by comparing
# every other place with the rest, so that two attentions that change places change all that comes from it: noise of 1e-6 turns
# 6 of 40 scenes, another processor 16. The half that attention alone chooses stays.
SHAKY = {"vispruner": 0.5}
VECTORS = Path(__file__).parent / "vectors" / "choices_500.npz"
MORE = VECTORS.with_name("choices_more.npz")


def expected() -> dict[str, list[tuple[list[int], bool]]]:
    """By method: indices and whether one token stands for the rest, scene by scene."""
    return {**_stored(VECTORS), **_stored(MORE)}


def _stored(path: Path) -> dict[str, list[tuple[list[int], bool]]]:
    with np.load(path) as stored:
        found = {}
        for name in sorted({key.rpartition(".")[0] for key in stored}):
            ends = np.cumsum(stored[f"{name}.lengths"].astype(int))[:-1]
            parts = np.split(stored[f"{name}.indices"].astype(int), ends)
            flags = stored[f"{name}.aggregated"].astype(bool)
            found[name] = [(part.tolist(), bool(flag)) for part, flag in zip(parts, flags, strict=True)]
    return found


def chosen(methods: list[str], scenes: int, batch: int = 1) -> dict[str, list[tuple[list[int], bool]]]:
    """The same as the code chooses now, ``batch`` scenes a call."""
    model, processor = load_demo()
    cache = trimkit.FeatureCache(2 * batch + 2)
    scorer = trimkit.reduce(model, processor)._attached_model.reducer.chooser.scorer()
    arms = {name: trimkit.reduce(model, processor, method=name, cache_images=cache, scorer=scorer) for name in methods}
    encode = shared_encoder(model, [arm.method for arm in arms.values()], cache)
    found: dict[str, list[tuple[list[int], bool]]] = {name: [] for name in methods}
    with torch.no_grad():
        for start in range(0, scenes, batch):
            items = [sample_item(SEED, number) for number in range(start, min(start + batch, scenes))]
            pictures, questions = [picture for picture, _ in items], [question.text for _, question in items]
            inputs = build_inputs(model, processor, pictures, questions, max_new_tokens=8)
            encode(inputs)
            for name, arm in arms.items():
                images = _image_reports(model, arm, inputs)
                found[name] += [(image.indices.tolist(), image.aggregated) for image in images]
    return found


def _image_reports(model: Any, arm: trimkit.Attachment, inputs: Any) -> tuple[trimkit.ImageReport, ...]:
    if arm.method.stage == "llm":
        arm.run_detached(model.generate, {**inputs, "max_new_tokens": 1, "do_sample": False})
        return arm.report.images
    attached = arm._attached_model
    return attached.reduce(dict(inputs), None, attached.new_call(), generating=True).report.images


def check(scenes: int, allowed: float, batch: int = 1) -> None:
    """At most ``allowed`` of what is stored has turned, of the first ``scenes`` as far as they are."""
    before = {name: rows[:scenes] for name, rows in expected().items() if batch == 1 or name not in BY_BATCH}
    turned = {}
    for count in {len(rows) for rows in before.values()}:
        now = chosen(sorted(name for name, rows in before.items() if len(rows) == count), count, batch)
        for name, rows in now.items():
            pairs = enumerate(zip(before[name], rows, strict=True))
            other = [i for i, (one, two) in pairs if not _same(one, two, SHAKY.get(name, 1.0))]
            turned |= {name: other} if len(other) > allowed * count else {}
    assert turned == {}


def _same(one: tuple[list[int], bool], other: tuple[list[int], bool], least: float) -> bool:
    """Whether as many tokens stay, and at least the share ``least`` of them."""
    stay = len(set(one[0]) & set(other[0]))
    return one == other or (
        one[1] == other[1] and len(one[0]) == len(other[0]) and least < 1 and stay >= least * len(one[0])
    )


def test_every_method_keeps_what_it_kept() -> None:
    assert set(expected()) == {name for name, _ in trimkit.methods.method_classes()} - {"none"}
    check(QUICK, 0.0)


def test_every_method_keeps_the_same_in_a_batch() -> None:
    check(QUICK, 0.0, batch=QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 16])
def test_every_method_keeps_what_it_kept_on_500_scenes(batch: int) -> None:
    check(SCENES, TURNED, batch)
