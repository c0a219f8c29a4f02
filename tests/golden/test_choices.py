"""Every method keeps the tokens it kept, scene by scene.

``vectors/choices_200.npz`` was made on the demo model in float32: for each method with its defaults, what it keeps of 200
scenes. It dates from before the pipeline became a package of its own (commit bf8acd2), but for the methods that have been
brought in line with their published code since: cdpruner, dart, divprune, prumerge, prumerge-plus and visionzip
(``dart-tower`` is what ``dart`` was). ``vectors/choices_more.npz`` holds the same of the first 40 scenes, for methods that came
later: as each chose when it came, whose rightness the vectors of published code show.

``python tests/golden/test_choices.py NAME ...`` stores those named anew, which is right only where a default is meant to
change. Rounding on another processor can turn a choice between two equal patches, hence the one scene in 200.
"""

from __future__ import annotations

import sys
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
SCENES = 200
QUICK = 8
TURNED = 1 / 200  # share of the scenes
VECTORS = Path(__file__).parent / "vectors" / "choices_200.npz"
MORE = VECTORS.with_name("choices_more.npz")
MORE_SCENES = 40


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


def chosen(methods: list[str], scenes: int) -> dict[str, list[tuple[list[int], bool]]]:
    """The same as the code chooses now."""
    model, processor = load_demo()
    cache = trimkit.FeatureCache(4)
    scorer = trimkit.reduce(model, processor)._attached_model.reducer.chooser.scorer()
    arms = {name: trimkit.reduce(model, processor, method=name, cache_images=cache, scorer=scorer) for name in methods}
    encode = shared_encoder(model, [arm.method for arm in arms.values()], cache)
    found: dict[str, list[tuple[list[int], bool]]] = {name: [] for name in methods}
    with torch.no_grad():
        for index in range(scenes):
            picture, question = sample_item(SEED, index)
            inputs = build_inputs(model, processor, [picture], [question.text], max_new_tokens=8)
            encode(inputs)
            for name, arm in arms.items():
                image = _image_report(model, arm, inputs)
                found[name].append((image.indices.tolist(), image.aggregated))
    return found


def _image_report(model: Any, arm: trimkit.Attachment, inputs: Any) -> trimkit.ImageReport:
    if arm.method.stage == "llm":
        arm.run_detached(model.generate, {**inputs, "max_new_tokens": 1, "do_sample": False})
        return arm.report.images[0]
    attached = arm._attached_model
    return attached.reduce(dict(inputs), None, attached.new_call(), generating=True).report.images[0]


def check(scenes: int, allowed: float) -> None:
    before = expected()
    now = chosen(sorted(before), scenes)
    turned = {
        name: [i for i, pair in enumerate(zip(before[name], rows, strict=False)) if pair[0] != pair[1]]
        for name, rows in now.items()
    }
    assert {name: rows for name, rows in turned.items() if len(rows) > allowed * scenes} == {}


def test_every_method_keeps_what_it_kept() -> None:
    assert set(expected()) == {name for name, _ in trimkit.methods.method_classes()} - {"none"}
    check(QUICK, 0.0)


@pytest.mark.slow
def test_every_method_keeps_what_it_kept_on_200_scenes() -> None:
    check(SCENES, TURNED)


def store(methods: list[str]) -> None:
    """Replace what is stored of ``methods`` by what they choose now; of those that are new, as many scenes as in ``MORE``."""
    early = [name for name in methods if name in _stored(VECTORS)]
    late = [name for name in methods if name not in early]
    for path, names, scenes in ((VECTORS, early, SCENES), (MORE, late, MORE_SCENES)):
        if names:
            _store(path, chosen(names, scenes))


def _store(path: Path, found: dict[str, list[tuple[list[int], bool]]]) -> None:
    arrays = {}
    if path.exists():
        with np.load(path) as stored:
            arrays = {key: stored[key] for key in stored}
    for name, rows in found.items():
        arrays[f"{name}.lengths"] = np.array([len(indices) for indices, _ in rows], dtype=np.uint16)
        arrays[f"{name}.indices"] = np.concatenate([np.array(indices, dtype=np.uint16) for indices, _ in rows])
        arrays[f"{name}.aggregated"] = np.array([flag for _, flag in rows], dtype=np.uint8)
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    store(sys.argv[1:])
