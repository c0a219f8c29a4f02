"""Which patches of a page are kept: ``python -m benchmarks.bench_pages`` writes ``benchmarks/results/pages.json``.

Tables, receipts and charts of the demo world, of a seed that nothing is reported on (1003; the rule of ``focus`` for pages was
made on 1001 and 1002). No answer is asked for: what counts is the share of the patches that hold the answer's cell, and of all
that the question needs, that a method keeps. Also what share of a page, or of a scene, a typical patch is like.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import trimkit
from benchmarks.cells import percent, table
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit.ask import build_inputs
from trimkit.core.text_lines import alike
from trimkit.demo import load_demo
from trimkit.demo.dense import DENSE
from trimkit.demo.items import EVALUATION_NAMESPACE, item_rng
from trimkit.demo.pages import Page
from trimkit.demo.questions import TYPES
from trimkit.demo.typed_items import HARD_TYPES, draw, sample_typed
from trimkit.demo.world import PATCH_SIZE, Box

METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("focus", {}),
    ("focus", {"lines": "off"}),
    ("trim", {}),
    ("cdpruner", {}),
    ("divprune", {}),
    ("scope", {}),
    ("uniform", {}),
    ("random", {}),
)
BUDGETS = (144, 64, 32, 16)
GRID = 24
COVERED = 0.35  # of a patch that lies in a box that it counts for


def patches_in(box: Box) -> set[int]:
    """Patches of which a good part lies in the box."""
    found = set()
    for patch in range(GRID * GRID):
        top, left = (place * PATCH_SIZE for place in divmod(patch, GRID))
        wide = min(box[2], left + PATCH_SIZE) - max(box[0], left)
        tall = min(box[3], top + PATCH_SIZE) - max(box[1], top)
        if min(wide, tall) > 0 and wide * tall >= COVERED * PATCH_SIZE**2:
            found.add(patch)
    return found


def items(seed: int, n: int, types: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    """Contents and questions, types in turn."""
    for index in range(n):
        yield sample_typed(item_rng(EVALUATION_NAMESPACE, seed, index), types[index % len(types)])


def kept(model: Any, processor: Any, seed: int, n: int) -> list[dict[str, Any]]:
    """A row a method, budget and kind of page: mean shares of patches kept."""
    pages = [(page, question) for page, question in items(seed, n, (DENSE,)) if isinstance(page, Page)]
    asked = [
        dict(build_inputs(model, processor, [draw(page)], [question.text], max_new_tokens=1))
        for page, question in pages
    ]
    cache, rows = trimkit.FeatureCache(n), []
    for name, options in METHODS:
        for budget in BUDGETS:
            shares: dict[str, list[tuple[float, float]]] = {}
            with torch.no_grad(), trimkit.reduce(
                model, processor, method=name, budget=budget, cache_images=cache, **options
            ) as trim:  # fmt: skip
                for (page, question), inputs in zip(pages, asked, strict=True):
                    model(**inputs)
                    mine = set(trim.report.images[0].indices.tolist())
                    answer, needed = patches_in(question.boxes[-1]), set().union(*map(patches_in, question.boxes))
                    shares.setdefault(page.kind, []).append((_share(mine, answer), _share(mine, needed)))
            for kind, values in sorted(shares.items()):
                of_answer, of_needed = (sum(each) / len(values) for each in zip(*values, strict=True))
                rows.append({"method": name, "options": options, "budget": budget, "page": kind, "n": len(values)})
                rows[-1] |= {"answer": of_answer, "needed": of_needed}
    return rows


def likeness(model: Any, processor: Any, seed: int, n: int) -> dict[str, dict[str, float]]:
    """Least and most share of patches that a typical one is like, by kind of page and by question type of scenes."""
    found: dict[str, list[float]] = {}
    for content, question in items(seed, n, (DENSE, *TYPES, *HARD_TYPES[1:])):
        pixels = processor.image_processor([draw(content)], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            features = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        kind = content.kind if isinstance(content, Page) else question.type
        found.setdefault(kind, []).append(float(alike(features)))
    return {kind: {"n": len(each), "least": min(each), "most": max(each)} for kind, each in found.items()}


def _share(mine: set[int], wanted: set[int]) -> float:
    return len(mine & wanted) / len(wanted) if wanted else 1.0


def rows(record: Record) -> str:
    """A row a method: of tables and receipts, the share of the answer's patches that is kept."""
    run = record["results"][0]
    cells: dict[str, dict[tuple[str, int], float]] = {}
    for each in run["kept"]:
        said = " ".join(f"{key}={value}" for key, value in each["options"].items())
        cells.setdefault(f"`{each['method']} {said}`".replace(" `", "`"), {})[each["page"], each["budget"]] = each[
            "answer"
        ]
    header = [(kind, budget) for kind in ("table", "receipt", "chart") for budget in BUDGETS]
    body = [[name, *[percent(mine[each]) if each in mine else "" for each in header]] for name, mine in cells.items()]
    span = ", ".join(
        f"{kind.replace('_', ' ')} {each['least']:.2f} to {each['most']:.2f}" for kind, each in run["alike"].items()
    )
    note = f"Share of the answer's patches that is kept; {run['n']} pages, seed {run['seed']}. Like a typical patch: {span}."
    return f"{table(['method', *[f'{kind}, {budget}' for kind, budget in header]], body)}\n\n{note}"


TABLES = {"pages": made_of("pages", rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1003)
    parser.add_argument("--n", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS / "pages.json")
    given = parser.parse_args()
    model, processor = load_demo()
    found = {"seed": given.seed, "n": given.n, "kept": kept(model, processor, given.seed, given.n)}
    found["alike"] = likeness(model, processor, given.seed, 2 * given.n)
    config = {"command": ["python", "-m", "benchmarks.bench_pages"], "arguments": {"seed": given.seed, "n": given.n}}
    record = {"experiment": "pages", "config": config, "provenance": provenance(), "results": [found]}
    save(record, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
