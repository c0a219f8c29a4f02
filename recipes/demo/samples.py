"""Writes the sample pictures that ship with the package: a few fixed scenes with questions of every type and their answers."""

from __future__ import annotations

import json
from pathlib import Path

from recipes.demo.shapes import ROOT
from trimkit.demo.items import EVALUATION_NAMESPACE, item_rng
from trimkit.demo.questions import TYPES, sample_question
from trimkit.demo.render import render
from trimkit.demo.world import sample_scene

TARGET = ROOT / "src/trimkit/demo/samples"
SEED = 7
SAMPLES = 5


def build(target: Path = TARGET) -> None:
    target.mkdir(parents=True, exist_ok=True)
    listed = []
    index = 0
    while len(listed) < SAMPLES:
        rng = item_rng(EVALUATION_NAMESPACE, SEED, index)
        index += 1
        scene = sample_scene(rng, objects=(8, 11), sign=True)
        # grain makes large files; counted objects make interesting samples
        if scene.sign is None or scene.background == "grain" or max(scene.count(o.name) for o in scene.objects) < 2:
            continue
        try:
            asked = [sample_question(scene, rng, kind) for kind in TYPES]
        except ValueError:
            continue
        picture = render(scene)
        path = target / f"scene{len(listed) + 1}.png"
        picture.save(path, optimize=True)
        if path.stat().st_size > 110_000:  # noisy backgrounds do not compress
            path.unlink()
            continue
        questions = [{"question": q.text, "answer": q.answer, "type": q.type} for q in asked]
        listed.append({"file": path.name, "questions": questions})
    (target / "samples.json").write_text(json.dumps({"samples": listed}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    build()
