"""Is a fitted scorer better than CLIP's relevance? ``python -m benchmarks.bench_fit suite`` (or ``random-text``, ``shift``).

``suite``: fitted on pictures and questions of all ten types of the demo world, and tested on others of a fresh seed, in
``focus`` at 64, 32 and 16 tokens. ``random-text``: the same for a twin of the demo model whose CLIP has a text tower of random
weights. ``shift``: fitted on shifted pictures, and tested on those and on normal ones.

Nothing is done twice: pictures, features, states and answers stay in ``--work``, and an interrupted run goes on from there.
Writes ``benchmarks/results/fit_PART.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.cells import percent, points, table
from benchmarks.fit_arms import BUDGETS, Asked, compared, run
from benchmarks.fit_world import write_set
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit.calibration import read_sources
from trimkit.demo import demo_model_path
from trimkit.fitting import FitSettings, fit
from trimkit.loading import load_model

TEST_SEED = 90211
FIT_SEED = 3
SHIFTS = ("greyscale", "thermal", "overhead")


def random_text_twin(folder: Path) -> Path:
    """The demo model with a text tower of random weights in its CLIP, whose relevance is then noise."""
    from safetensors.torch import load_file, save_file

    if not folder.exists():
        fresh = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(demo_model_path(), fresh)
        path = fresh / "clip" / "model.safetensors"
        tensors, drawn = load_file(path), torch.Generator().manual_seed(0)
        for name, value in tensors.items():
            if name.startswith("text_") and value.ndim > 1:
                tensors[name] = torch.randn(value.shape, generator=drawn) * value.std()
        save_file(tensors, path, metadata={"format": "pt"})
        fresh.replace(folder)
    return folder


def fitted(name: str, shift: str, given: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """What ``trimkit fit`` says of a model and a kind of pictures, and the scorer, which is kept whatever the guard says."""
    label = f"{Path(name).name}-{shift}-{given.pictures}x{given.per_picture}-{given.steps}"
    pictures, scorer = (
        given.work / f"pictures-{shift}-{given.pictures}x{given.per_picture}",
        given.work / f"scorer-{label}",
    )
    write_set(pictures, given.pictures, given.per_picture, FIT_SEED, shift)
    report = scorer / "fit.json"
    if not report.is_file():
        model, processor = load_model(name, device=given.device)
        sources = read_sources(pictures, pictures / "questions.jsonl", limit=given.pictures)
        settings = FitSettings(
            per_picture=given.per_picture, max_new_tokens=4, steps=given.steps, every=max(1, given.steps // 6)
        )
        how: dict[str, Any] = {"work": given.work / f"work-{label}", "settings": settings, "force": True, "name": label}
        fit(model, processor, sources.pictures, sources.questions, scorer, **how)
    return json.loads(report.read_text(encoding="utf-8")), scorer


def tested(name: str, scorer: Path, shift: str, given: argparse.Namespace) -> dict[str, Any]:
    """Both scorers' answers side by side."""
    asked = Asked(name, {"clip": None, "fitted": str(scorer)}, TEST_SEED, given.n, shift, given.device)
    journal = given.work / f"answers-{scorer.name}-{shift}.jsonl"
    return compared(run(asked, journal))


def measure(part: str, given: argparse.Namespace) -> dict[str, Any]:
    """Results of a part."""
    if part == "shift":
        found: dict[str, Any] = {}
        for shift in given.shifts.split(","):
            told, scorer = fitted("demo", shift, given)
            tests = {kind: tested("demo", scorer, kind, given) for kind in (shift, "none")}
            found[shift] = {"fit": told, "tests": tests}
        return found
    name = "demo" if part == "suite" else str(random_text_twin(given.work / "random-text"))
    told, scorer = fitted(name, "none", given)
    return {"none": {"fit": told, "tests": {"none": tested(name, scorer, "none", given)}}}


def shown(record: Record) -> str:
    """By kind of picture and type of question, both scorers' answers that stay the full model's, and the difference."""
    rows = []
    for learned, each in record["results"].items():
        for kind, found in each["tests"].items():
            for name, one in found.items():
                cells = [f"{one['same']['share'][f'fitted@{budget}']:.3f}" for budget in BUDGETS]
                gaps = [points(one["same"]["fitted_minus"][f"clip@{budget}"]) for budget in BUDGETS]
                rows.append([f"{learned} / {kind}", name, percent(one["hit"]["share"]["full"]), *cells, *gaps])
    sizes = [str(budget) for budget in BUDGETS]
    header = ["fitted on / tested on", "questions", "full model right", *(f"same at {size}" for size in sizes)]
    header += [f"minus CLIP's at {size}" for size in sizes]
    config = record["config"]
    guards = [each["fit"]["guard"] for each in record["results"].values()]
    said = "; ".join("better" if guard["better"] else "not better with 95 % confidence" for guard in guards)
    note = (
        f"`focus`; {config['n']} questions of all ten types, seed {config['test_seed']}; fitted on {config['pictures']} "
        f"pictures. *Same*: the reply is the full model's, whether right or not. The guard says: {said}."
    )
    return f"{table(header, rows)}\n\n{note}"


TABLES = {
    f"fit-{part}": made_of(f"fit_{part.replace('-', '_')}", shown, f"bench_fit {part}")
    for part in ("suite", "random-text", "shift")
} | {"fit-shift-overhead": made_of("fit_shift_overhead", shown, "bench_fit shift --shifts overhead")}


def main() -> None:
    """Measure one part and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("suite", "random-text", "shift"))
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--per-picture", type=int, default=6)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--n", type=int, default=2000, help="held-out questions")
    parser.add_argument("--shifts", default=",".join(SHIFTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("out/bench_fit"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    commit = provenance(given.device)["commit"][:12]  # what another commit left there is not gone on with
    given.work = given.work / commit
    given.work.mkdir(parents=True, exist_ok=True)
    name = f"fit_{given.part.replace('-', '_')}"
    config = {key: value for key, value in vars(given).items() if key not in ("work", "out")}
    record: dict[str, Any] = {
        "experiment": name,
        "config": {**config, "test_seed": TEST_SEED, "fit_seed": FIT_SEED},
        "provenance": provenance(given.device),
    }
    record["results"] = measure(given.part, given)
    out = given.out or RESULTS / f"{name}.json"
    save(record, out)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
