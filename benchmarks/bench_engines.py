"""Other engines than torch on the CPU: ONNX Runtime and OpenVINO beside torch, in turn: ``python -m benchmarks.bench_engines``.

Four parts, each written to ``benchmarks/results/bench_engines.json`` as soon as it is done:

* ``end_to_end``: the stock model, and ``trim`` at 121 tokens with the tower in torch and in each engine (``vision_engine=``),
  on LLaVA-1.5's tower before a 12-layer language model, random weights.
* ``graphs``: the graph that ``trimkit export --onnx`` writes of the demo model, for five methods: the same patches as torch on
  held-out scenes, how far embeddings are apart, and the time of one picture with its question.
* ``int8``: the demo model's tower with its matrix products in int8 (ONNX Runtime's dynamic quantization): time, and how many of
  the kept patches stay the same.
* ``answers``: what the attached demo model answers about held-out scenes, with the tower in torch and in each engine.

All arms of a part run in turn, another one first each time; ratios are medians over rounds with their 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trimkit
from benchmarks.bench_tables import factor, seconds
from benchmarks.cells import percent, table
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit.ask import build_inputs, decode
from trimkit.bench.arms import Arm
from trimkit.bench.shapes import SHAPES
from trimkit.bench.stats import orders, ratio, spread
from trimkit.bench.subject import RandomModel
from trimkit.demo import load_demo
from trimkit.demo.items import sample_item
from trimkit.engines import ENGINES, TowerEngine
from trimkit.engines.export import SETTINGS, export_onnx
from trimkit.engines.packages import version_of
from trimkit.engines.sessions import Session, open_session
from trimkit.methods import get_method

METHODS = ("trim", "focus", "cdpruner", "divprune", "uniform")
BUDGET = 121
SEED = 17  # of the scenes
TARGET = RESULTS / "bench_engines.json"
Call = Callable[[], Any]


def in_turn(
    arms: dict[str, Call], rounds: int, after: Callable[[dict[str, list[float]]], None] | None = None
) -> dict[str, list[float]]:
    """Seconds of every arm in every round, after one that is not counted; ``after`` gets what there is after each round."""
    names = list(arms)
    for arm in arms.values():
        arm()
    times: dict[str, list[float]] = {name: [] for name in names}
    for order in orders(len(names), rounds):
        for which in order:
            start = time.perf_counter()
            arms[names[which]]()
            times[names[which]].append(time.perf_counter() - start)
        if after is not None:
            after(times)
    return times


def compared(times: dict[str, list[float]], base: str) -> dict[str, Any]:
    """Spreads, and every arm's ratio to ``base`` within its rounds."""
    over = {name: ratio(values, times[base]) for name, values in times.items() if name != base}
    return {"seconds": {name: spread(values) for name, values in times.items()}, f"over_{base}": over}


def scenes(count: int) -> list[tuple[Any, str]]:
    """Held-out pictures with their questions."""
    return [(picture, question.text) for picture, question in (sample_item(SEED, index) for index in range(count))]


# -- end to end ----------------------------------------------------------------------------------------------------------------


def end_to_end(given: argparse.Namespace) -> dict[str, Any]:
    """``generate`` of one new token, from pixels. Written after every round: on a busy machine all of them take long."""
    subject = RandomModel(SHAPES[given.shape], 40, torch.device("cpu"), torch.float32, 0)
    trim = get_method("trim", budget=BUDGET if given.shape != "small" else 21)
    arms = {"stock": Arm(subject, None, 1, 1), "torch": Arm(subject, trim, 1, 1)}
    arms |= {name: Arm(subject, trim, 1, 1, vision_engine=name) for name in ENGINES}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    request = arms["stock"].request()

    def call(name: str) -> None:
        arms[name].forget()
        stages[name].append(arms[name].time(request).stages)

    def found(times: dict[str, list[float]]) -> dict[str, Any]:
        rounds = len(times["stock"])
        vision = {name: spread([run["vision"] for run in runs[1 : 1 + rounds]]) for name, runs in stages.items()}
        config = {"shape": given.shape, "rounds": rounds, "budget": trim.budget.to_plain(), "text_tokens": 40}
        return {"config": config, **compared(times, "stock"), "vision_s": vision}

    def write(times: dict[str, list[float]]) -> None:
        keep(given.out, "end_to_end", found(times))

    return found(in_turn({name: lambda name=name: call(name) for name in arms}, given.rounds, write))


# -- graphs --------------------------------------------------------------------------------------------------------------------


class Graph:
    """One exported graph in one engine, from PIL images and questions on."""

    def __init__(self, directory: Path, engine: str) -> None:
        from transformers import AutoProcessor, AutoTokenizer

        self.session: Session = open_session(engine, directory / "model.onnx")
        self._processor = AutoProcessor.from_pretrained(directory / "processor")
        self._reads = "question_ids" in json.loads((directory / SETTINGS).read_text())["inputs"]
        if self._reads:
            self._tokenizer = AutoTokenizer.from_pretrained(directory / "question_tokenizer")
        self._pad = json.loads((directory / SETTINGS).read_text())["inputs"].get("question_ids", {}).get("pad_with")

    def __call__(self, pictures: Sequence[Any], questions: Sequence[str]) -> dict[str, Any]:
        pixels = self._processor.image_processor(images=list(pictures), return_tensors="np")["pixel_values"]
        inputs = {"pixel_values": np.asarray(pixels, np.float32)}
        if self._reads:
            ids = [self._tokenizer(question)["input_ids"] for question in questions]
            longest = max(map(len, ids))
            inputs["question_ids"] = np.array([row + [self._pad] * (longest - len(row)) for row in ids], np.int64)
        return self.session(inputs)


def graphs(given: argparse.Namespace) -> dict[str, Any]:
    """Choices on all scenes in batches of 8, time of single ones."""
    model, processor = load_demo()
    asked, cache = scenes(given.scenes), trimkit.FeatureCache(given.scenes)
    found: dict[str, Any] = {}
    for method in METHODS:
        with tempfile.TemporaryDirectory() as home:
            directory = export_onnx("demo", Path(home) / "graph", method=method, budget=BUDGET)
            engines = {name: Graph(directory, name) for name in ENGINES}
            held = trimkit.VisionEncoder(model, processor, method=method, budget=BUDGET, cache_images=cache)
            found[method] = {"choices": {name: choices(held, graph, asked) for name, graph in engines.items()}}
            encoder = trimkit.VisionEncoder(model, processor, method=method, budget=BUDGET, cache_images=0)
            found[method]["time"] = graph_times(encoder, engines, asked, given.rounds)
            print(method, found[method]["choices"], flush=True)
    return {
        "config": {"scenes": given.scenes, "rounds": given.rounds, "budget": BUDGET, "seed": SEED},
        "methods": found,
    }


def choices(encoder: Any, graph: Graph, asked: Sequence[tuple[Any, str]]) -> dict[str, Any]:
    """How the graph's choices and embeddings compare with torch's."""
    same, largest = 0, 0.0
    for start in range(0, len(asked), 8):
        pictures, questions = zip(*asked[start : start + 8], strict=True)
        out = graph(pictures, questions)
        for row, (picture, question) in enumerate(zip(pictures, questions, strict=True)):
            (by_torch,) = encoder(picture, question)
            equal = np.array_equal(out["indices"][row], by_torch.selection.indices.numpy())
            same += int(equal)
            if equal:
                largest = max(largest, float(np.abs(out["embeddings"][row] - by_torch.embeddings.numpy()).max()))
    return {"scenes": len(asked), "same": same, "largest_difference": largest}


def graph_times(
    encoder: Any, engines: dict[str, Graph], asked: Sequence[tuple[Any, str]], rounds: int
) -> dict[str, Any]:
    """One picture and one question, neither seen before."""
    turns: dict[str, Iterator[tuple[Any, str]]] = {name: iter(asked * (rounds + 1)) for name in ("torch", *engines)}

    def by_torch() -> None:
        encoder.clear_cache()
        encoder(*next(turns["torch"]))

    def by_engine(name: str) -> None:
        picture, question = next(turns[name])
        engines[name]([picture], [question])

    arms: dict[str, Call] = {"torch": by_torch}
    arms |= {name: lambda name=name: by_engine(name) for name in engines}
    return compared(in_turn(arms, rounds), "torch")


# -- int8 ----------------------------------------------------------------------------------------------------------------------


def int8(given: argparse.Namespace) -> dict[str, Any]:
    """The tower alone: float32 and int8, in both engines."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from trimkit.engines.tower import export_tower
    from trimkit.models import family_of

    model, processor = load_demo()
    parts = family_of(model).parts(model)
    asked = scenes(given.scenes)
    pixels = [processor.image_processor(images=picture, return_tensors="pt")["pixel_values"] for picture, _ in asked]
    with tempfile.TemporaryDirectory() as home:
        plain, small = Path(home) / "tower.onnx", Path(home) / "tower-int8.onnx"
        export_tower(parts, plain)
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
        sizes = {"float32": plain.stat().st_size, "int8": small.stat().st_size}
        towers: dict[str, Callable[[Any], Any]] = {"torch": lambda given: parts.tower(given)}
        for name in ENGINES:
            for kind, file in (("float32", plain), ("int8", small)):
                session = open_session(name, file)
                towers[f"{name} {kind}"] = lambda given, session=session: torch.from_numpy(
                    session({"pixel_values": given.numpy()})["features"]
                )
        with torch.no_grad():
            quality = {
                name: int8_quality(model, processor, asked, pixels, parts, towers["torch"], run)
                for name, run in towers.items()
                if name.endswith("int8")
            }
            turns = {name: iter(pixels * (given.rounds + 1)) for name in towers}
            arms = {name: lambda name=name: towers[name](next(turns[name])) for name in towers}
            times = in_turn(arms, given.rounds)
    config = {"scenes": given.scenes, "rounds": given.rounds, "budget": BUDGET, "seed": SEED}
    return {"config": config, "bytes": sizes, "quality": quality, **compared(times, "torch")}


def int8_quality(
    model: Any, processor: Any, asked: Any, pixels: Any, parts: Any, stock: Any, run: Any
) -> dict[str, Any]:
    """Shares of kept patches that are the same, by method, and the mean error of the features."""
    from trimkit.pipeline.model_store import scorer_of

    scorer = scorer_of(model)

    def seen(features: Any) -> Any:
        (image,) = parts.images(features)
        return replace(image, signals={"projected": parts.projector(image.features)})

    same: dict[str, list[float]] = {"trim": [], "focus": []}
    errors = []
    for (_, question), given in zip(asked, pixels, strict=True):
        one, other = stock(given), run(given)
        errors.append(float((one - other).norm() / one.norm()))
        for method, shares in same.items():
            kept = [
                set(trimkit.choose(seen(each), question, method=method, scorer=scorer, budget=BUDGET).indices.tolist())
                for each in (one, other)
            ]
            shares.append(len(kept[0] & kept[1]) / len(kept[0]))
    return {
        "feature_error": float(np.mean(errors)),
        "same_patches": {name: float(np.mean(each)) for name, each in same.items()},
    }


# -- answers -------------------------------------------------------------------------------------------------------------------


def answers(given: argparse.Namespace) -> dict[str, Any]:
    """``trim`` at 121 tokens on the attached demo model, batches of 8."""
    model, processor = load_demo()
    asked = scenes(given.scenes)
    said: dict[str, list[str]] = {}
    for name in (None, *ENGINES):
        replies: list[str] = []
        engine = None if name is None else TowerEngine(name)
        with trimkit.reduce(model, processor, method="trim", budget=BUDGET, cache_images=0, vision_engine=engine):
            for start in range(0, len(asked), 8):
                pictures, questions = zip(*asked[start : start + 8], strict=True)
                inputs = build_inputs(model, processor, pictures, questions, max_new_tokens=8)
                replies += decode(processor, inputs, model.generate(**inputs, max_new_tokens=8, do_sample=False))
        said[name or "torch"] = replies
    same = {name: sum(a == b for a, b in zip(said[name], said["torch"], strict=True)) for name in ENGINES}
    return {"config": {"scenes": len(asked), "budget": BUDGET, "seed": SEED}, "same": same}


# -- tables --------------------------------------------------------------------------------------------------------------------


def shown_end_to_end(record: Record) -> str:
    part = record["results"]["end_to_end"]
    titles = {"stock": "stock model", "torch": "`trim`, tower in torch"}
    rows = []
    for name, took in part["seconds"].items():
        over = part["over_stock"].get(name)
        times = "1" if over is None else f"{1 / over['median']:.2f} x"
        title = titles.get(name, f'`trim`, `vision_engine="{name}"`')
        rows.append(
            [title, seconds(part["vision_s"][name]), seconds(took), "1" if over is None else factor(over), times]
        )
    config = part["config"]
    header = ["arm", "vision tower", "end to end", "time ratio (95 %)", "speed-up"]
    note = f"`{config['shape']}`, random weights, float32, {config['budget']} of 576 image tokens, one new token; medians of "
    return f"{table(header, rows)}\n\n{note}{config['rounds']} rounds, all arms in turn."


def shown_graphs(record: Record) -> str:
    part = record["results"]["graphs"]
    rows = []
    for method, found in part["methods"].items():
        for name, took in found["time"]["seconds"].items():
            over, same = found["time"]["over_torch"].get(name), found["choices"].get(name)
            cells = (
                ["", ""]
                if same is None
                else [f"{same['same']} of {same['scenes']}", f"{same['largest_difference']:.0e}"]
            )
            rows.append([f"`{method}`", name, seconds(took), "1" if over is None else factor(over), *cells])
    config = part["config"]
    header = [
        "method",
        "engine",
        "one picture",
        "time ratio (95 %)",
        "scenes with the same patches",
        "largest difference",
    ]
    note = f"Demo model, float32, {config['budget']} tokens, seed {config['seed']}; from picture and question to embeddings, "
    return f"{table(header, rows)}\n\n{note}medians of {config['rounds']} rounds, all in turn; choices in batches of 8."


def shown_int8(record: Record) -> str:
    part = record["results"]["int8"]
    rows = []
    for name, took in part["seconds"].items():
        over, quality = part["over_torch"].get(name), part["quality"].get(name)
        cells = ["", "", ""]
        if quality is not None:
            cells = [percent(quality["feature_error"]), *(percent(each) for each in quality["same_patches"].values())]
        rows.append([name, seconds(took), "1" if over is None else factor(over), *cells])
    header = [
        "tower",
        "one picture",
        "time ratio (95 %)",
        "error of features",
        "same patches, `trim`",
        "same patches, `focus`",
    ]
    config, sizes = part["config"], part["bytes"]
    note = (
        f"Demo model's tower, {config['budget']} tokens, {config['scenes']} scenes; {sizes['float32'] / 1e6:.0f} MB in "
        f"float32, {sizes['int8'] / 1e6:.0f} MB in int8; medians of {config['rounds']} rounds, all in turn."
    )
    return f"{table(header, rows)}\n\n{note}"


def shown_answers(record: Record) -> str:
    part = record["results"]["answers"]
    rows = [
        [f'`vision_engine="{name}"`', f"{same} of {part['config']['scenes']}"] for name, same in part["same"].items()
    ]
    note = f"Demo model, `trim`, {part['config']['budget']} tokens, seed {part['config']['seed']}, greedy."
    return f"{table(['tower', 'answers equal to those with the tower in torch'], rows)}\n\n{note}"


PARTS: dict[str, tuple[Callable[[argparse.Namespace], dict[str, Any]], Callable[[Record], str]]] = {
    "end_to_end": (end_to_end, shown_end_to_end),
    "graphs": (graphs, shown_graphs),
    "int8": (int8, shown_int8),
    "answers": (answers, shown_answers),
}


def _of_part(name: str) -> Callable[[Record], str]:
    def shown(record: Record) -> str:
        return PARTS[name][1](record) if name in record["results"] else "*Not measured yet.*"

    return shown


TABLES = {
    f"bench-engines-{name.replace('_', '-')}": made_of("bench_engines", _of_part(name), "bench_engines")
    for name in PARTS
}


def keep(target: Path, name: str, found: dict[str, Any]) -> None:
    """Write a part beside those that are there."""
    before: Record = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {"results": {}}
    about = provenance()
    about["versions"] |= {each: version_of(each) for each in ("onnx", "onnxscript", *ENGINES)}
    record = {"experiment": "bench_engines", "provenance": about, "results": {**before["results"], name: found}}
    save(record, target)
    print(f"wrote {name} to {target}", flush=True)


def main() -> None:
    """Measure and write the result, part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), action="append", help="one or several; by default all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--shape", default="clip-l-336", choices=sorted(SHAPES))
    parser.add_argument("--out", type=Path, default=TARGET)
    given = parser.parse_args()
    for name in given.part or PARTS:
        keep(given.out, name, PARTS[name][0](given))


if __name__ == "__main__":
    main()
