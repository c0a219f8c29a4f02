"""Does calibration find the sign that answers better? ``python -m benchmarks.bench_calibration``.

Two models: the demo model, and a twin whose CLIP has its projection negated, so that similarity is the wrong way round. Each is
calibrated on at most 64 pictures of the demo world without answers, once with the questions that belong to them and once with
the general ones that are asked where there are none. Then both signs answer held-out questions, which have labels, at one
count. Writes ``benchmarks/results/calibration.json``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cells import percent, table
from benchmarks.records import RESULTS, Record, made_of, right, save
from benchmarks.run import provenance
from trimkit import EncoderProfile, get_method
from trimkit.calibration import calibrate
from trimkit.demo import demo_model_path
from trimkit.demo.items import sample_item
from trimkit.eval import scenes
from trimkit.loading import load_model

PICTURE_SEED = 501
TEST_SEED = 502
SHARE = 1 / 9


def inverted_twin(folder: Path) -> Path:
    """The demo model in ``folder``, its CLIP's visual projection negated; its profile still says +1."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(demo_model_path(), folder)
    weights = folder / "clip" / "model.safetensors"
    tensors = load_file(weights)
    tensors["visual_projection.weight"] = -tensors["visual_projection.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def calibration(name: str, count: int, seed: int, *, with_questions: bool) -> dict[str, Any]:
    """One calibration of the model ``name``, and its seconds from the loaded model on."""
    model, processor = load_model(name)
    items = {f"{number:02}": sample_item(PICTURE_SEED + seed, number) for number in range(count)}
    pictures = {key: image for key, (image, _) in items.items()}
    questions = {key: [question.text] for key, (_, question) in items.items()} if with_questions else None
    started = time.perf_counter()
    found = calibrate(model, processor, pictures, questions, per_picture=1, seed=seed)
    return {**found.to_plain(), "seconds": round(time.perf_counter() - started, 1)}


def accuracy(name: str, sign: int, normalize: bool, n: int, seed: int) -> dict[str, Any]:
    """Labelled accuracy at the candidates' count."""
    model, processor = load_model(name)
    method = get_method("trim", budget=SHARE, profile=EncoderProfile(sign=sign, normalize=normalize))
    result = scenes.evaluate(model, processor, seed=TEST_SEED + seed, n=n, method=method)
    return {key: result[key] for key in ("n", "accuracy", "ci95", "image_tokens_kept_mean", "accuracy_by_type")}


def run(name: str, pictures: int, n: int, seed: int) -> dict[str, Any]:
    """One model: both calibrations, both signs."""
    calibrations = {
        kind: calibration(name, pictures, seed, with_questions=kind == "own questions")
        for kind in ("own questions", "general questions")
    }
    profile = calibrations["own questions"]["chosen"]["profile"]
    signs = {f"{sign:+d}": accuracy(name, sign, profile["normalize"], n, seed) for sign in (1, -1)}
    better = max(signs, key=lambda sign: signs[sign]["accuracy"])
    return {
        "calibrations": calibrations,
        "chosen_sign": {kind: f"{each['chosen']['profile']['sign']:+d}" for kind, each in calibrations.items()},
        "labelled": signs,
        "better_sign": better,
        "right": {
            kind: f"{each['chosen']['profile']['sign']:+d}" == better and each["decisions"]["sign"]["decided"]
            for kind, each in calibrations.items()
        },
    }


def shown(record: Record) -> str:
    """The sign that calibration chose without labels, and the labelled accuracy of both."""
    rows = []
    for name, one in record["results"].items():
        for kind, found in one["calibrations"].items():
            labelled = [one["labelled"][sign] for sign in ("+1", "-1")]
            signs = [right(each) for each in labelled]
            decided = "" if found["decisions"]["sign"]["decided"] else ", not decided"
            rows.append([name, kind, f"{one['chosen_sign'][kind]}{decided}", *signs, f"{found['seconds']:.0f} s"])
    config = record["config"]
    header = ["model", "asked", "sign chosen without labels", "right with +1 (95 %)", "right with -1 (95 %)", "took"]
    note = (
        f"{config['pictures']} pictures without labels; labelled: {config['n']} other questions at "
        f"{percent(config['share'])} of the tokens."
    )
    return f"{table(header, rows)}\n\n{note}"


TABLES = {"calibration": made_of("calibration", shown, "bench_calibration")}


def main() -> None:
    """Calibrate both models and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--n", type=int, default=300, help="held-out questions for each sign")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "calibration.json")
    given = parser.parse_args()
    config = {"pictures": given.pictures, "n": given.n, "seed": given.seed, "share": SHARE}
    record: dict[str, Any] = {"experiment": "calibration", "config": config, "provenance": provenance(), "results": {}}
    with tempfile.TemporaryDirectory() as folder:
        models = {"demo": "demo", "inverted twin": str(inverted_twin(Path(folder) / "twin"))}
        for title, name in models.items():
            record["results"][title] = run(name, given.pictures, given.n, given.seed)
            print(title, record["results"][title]["chosen_sign"], record["results"][title]["right"], flush=True)
    save(record, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
