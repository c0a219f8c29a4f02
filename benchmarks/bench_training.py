"""Fine-tuning with all image tokens and with TRIM, step by step in turn: ``python -m benchmarks.bench_training``.

Task, data and settings are those of ``examples/finetune_demo.py``: the demo model learns questions in shorthand, on the CPU in
float32. Both arms start from the same weights and are given the same batches. A step is the forward pass from pixels (the
frozen tower runs in both arms, nothing is cached), the backward pass, clipping and AdamW; rendering and tokenising are not
in it. ``from_features`` is the same without the tower's time. Peak memory is measured apart, each arm in a process of its
own. Writes ``benchmarks/results/training.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import trimkit
from benchmarks.cells import interval, percent, table
from benchmarks.records import RESULTS, Record, made_of, right, save
from benchmarks.run import provenance
from examples import finetune_demo as demo
from trimkit.demo import load_demo

ARMS = ("none", "trim")
WARM_UP_STEPS = 2  # not timed
MEMORY_STEPS = 3
Batch = dict[str, torch.Tensor]


class Arm:
    """One model in training, what feeds it shortened or not, and a record of every step."""

    def __init__(self, method: str, steps: int) -> None:
        self.model, self.processor = load_demo()
        demo.freeze(self.model, train_tower=False)
        self.trim = None if method == "none" else trimkit.attach(self.model, self.processor, method=method)
        learnt = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(learnt, lr=demo.LEARNING_RATE, weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: rate(step, steps))
        self.steps: list[dict[str, float]] = []
        self._tower_seconds = self._started = 0.0
        self._fed = (0, 0)
        tower, language = self.model.model.vision_tower, self.model.model.language_model
        tower.register_forward_pre_hook(self._tower_starts)
        tower.register_forward_hook(self._tower_ends)
        language.register_forward_hook(self._see_length)

    def step(self, batch: Batch) -> None:
        self.model.train()
        self._tower_seconds, start = 0.0, time.perf_counter()
        loss = self.model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([w for w in self.model.parameters() if w.requires_grad], 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - start
        rows, length = self._fed
        record = {"seconds": seconds, "from_features": seconds - self._tower_seconds, "loss": float(loss.detach())}
        self.steps.append({**record, "length": length, "tokens": rows * length})

    def detach(self) -> Any:
        """The plain model."""
        if self.trim is not None:
            self.trim.detach()
        return self.model

    def _tower_starts(self, *call: Any) -> None:
        self._started = time.perf_counter()

    def _tower_ends(self, *call: Any) -> None:
        self._tower_seconds += time.perf_counter() - self._started

    def _see_length(self, module: Any, arguments: Any, output: Any) -> None:
        self._fed = output.last_hidden_state.shape[:2]


def rate(step: int, steps: int) -> float:
    """Warm-up and cosine, as the example has."""
    warm = max(round(demo.WARM_UP * steps), 1)
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * max(step - warm, 0) / max(steps - warm, 1))))


def batches(processor: Any, seed: int, steps: int, size: int) -> Any:
    """The same for every arm."""
    scenes, collate = demo.training_scenes(seed, steps * size), demo.Collator(processor)
    for step in range(steps):
        yield collate([scenes[i] for i in range(step * size, (step + 1) * size)])


def train(arms: dict[str, Arm], options: argparse.Namespace) -> None:
    """A step of each in turn, so that a machine that slows down slows both; who goes first alternates."""
    source = batches(next(iter(arms.values())).processor, options.seed, options.steps, options.batch)
    for number, batch in enumerate(source):
        for name in ARMS if number % 2 == 0 else ARMS[::-1]:
            arms[name].step(batch)
        if number % 10 == 9 or number + 1 == options.steps:
            shown = (
                f"{name} {arm.steps[-1]['seconds']:.2f} s, loss {arm.steps[-1]['loss']:.3f}"
                for name, arm in arms.items()
            )
            print(f"step {number + 1}: {'; '.join(shown)}", file=sys.stderr, flush=True)


def compare(arms: dict[str, Arm], key: str) -> dict[str, Any]:
    """Medians with quartiles of each arm, and of the ratio within each step."""
    values = {name: [step[key] for step in arm.steps[WARM_UP_STEPS:] or arm.steps] for name, arm in arms.items()}
    ratios = [trim / full for full, trim in zip(values["none"], values["trim"], strict=True)]
    found = {name: spread(each) for name, each in values.items()}
    return {**found, "ratio": found["trim"]["median"] / found["none"]["median"], "ratio_by_step": spread(ratios)}


def spread(values: list[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "q1": low, "q3": high}


def evaluate(arms: dict[str, Arm], options: argparse.Namespace) -> dict[str, Any]:
    """Held-out questions: the model before, each as it was trained, and each the other way."""
    scenes = demo.held_out_scenes(options.seed, options.n)
    full, trim, processor = arms["none"].detach(), arms["trim"].detach(), arms["none"].processor
    asked = {
        "before": (load_demo()[0], "none"),
        "full_asked_full": (full, "none"),
        "trim_asked_trim": (trim, "trim"),
        "trim_asked_full": (trim, "none"),
        "full_asked_trim": (full, "trim"),
    }
    right = {}
    for name, (model, method) in asked.items():
        right[name] = demo.replies_right(model, processor, scenes, method)
        print(f"{name}: {sum(right[name]) / len(right[name]):.1%}", file=sys.stderr, flush=True)
    found: dict[str, Any] = {name: demo.accuracy(each) for name, each in right.items()}
    return {**found, "difference": paired(right["trim_asked_trim"], right["full_asked_full"])}


def paired(first: list[bool], second: list[bool]) -> dict[str, Any]:
    """Difference of two shares on the same questions, with its 95 % interval."""
    gaps = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    mean = statistics.fmean(gaps)
    half = 1.96 * statistics.pstdev(gaps) / math.sqrt(len(gaps))
    return {"value": mean, "ci95": [mean - half, mean + half]}


def memory_of(method: str, options: argparse.Namespace) -> dict[str, float]:
    """In this process: resident memory before training starts, and its peak in a few steps."""
    arm = Arm(method, options.steps)
    source = list(batches(arm.processor, options.seed, MEMORY_STEPS, options.batch))
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    for batch in source:
        arm.step(batch)
    peak = status("VmHWM")
    return {"before_mb": before, "peak_mb": peak, "above_mb": peak - before}


def status(field: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no {field}: memory is measured on Linux only")


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Each arm in its own process."""
    found: dict[str, Any] = {}
    for method in ARMS:
        line = [sys.executable, "-m", "benchmarks.bench_training", "--memory", method]
        line += ["--batch", str(options.batch), "--seed", str(options.seed), "--threads", str(options.threads)]
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
        found[method] = json.loads(done.stdout.splitlines()[-1])
        print(f"memory, {method}: {found[method]}", file=sys.stderr, flush=True)
    ratios = {f"{key}_ratio": found["trim"][f"{key}_mb"] / found["none"][f"{key}_mb"] for key in ("above", "peak")}
    return {**found, **ratios}


def shown(record: Record) -> str:
    """Tokens, seconds and memory of a training step with all tokens and with TRIM, and what was learnt."""
    memory, asked = record["memory"], record["accuracy"]
    parts = [("time of a step", "seconds", " s", 2), ("the same from features on", "from_features", " s", 2)]
    parts.append(("tokens of a step in the language model", "tokens", "", 0))
    rows = []
    for title, key, unit, digits in parts:
        full, trim, steps = (record[key][name] for name in ("none", "trim", "ratio_by_step"))
        cells = [f"{each['median']:.{digits}f}{unit}" for each in (full, trim)]
        rows.append([title, *cells, f"{record[key]['ratio']:.2f} ({steps['q1']:.2f} to {steps['q3']:.2f})"])
    for title, key in (("peak memory above that before training", "above"), ("peak memory of the process", "peak")):
        cells = [f"{memory[name][f'{key}_mb']:.0f} MB" for name in ("none", "trim")]
        rows.append([title, *cells, f"{memory[f'{key}_ratio']:.2f}"])
    said = [right(one) for one in (asked["full_asked_full"], asked["trim_asked_trim"])]
    gap, config = asked["difference"], record["config"]
    rows.append(
        ["held-out questions right (95 %)", *said, f"{100 * gap['value']:+.1f} points ({interval(gap['ci95'])})"]
    )
    before, crossed, back = (
        percent(asked[key]["accuracy"]) for key in ("before", "trim_asked_full", "full_asked_trim")
    )
    note = (
        f"{config['steps']} steps of {config['batch']} pictures, {config['dtype']}, frozen tower, seed {config['seed']}; "
        f"medians, quartiles of the ratio within a step. {config['n']} held-out questions; before training {before} right. "
        f"Trained with TRIM and asked with all tokens: {crossed}; the other way round: {back}."
    )
    return f"{table(['', 'all tokens', '`trim`', 'ratio'], rows)}\n\n{note}"


TABLES = {"training": made_of("training", shown, "bench_training")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--n", type=int, default=600, help="held-out questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "training.json")
    parser.add_argument("--memory", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.memory:
        print(json.dumps(memory_of(options.memory, options)))
        return 0
    record: dict[str, Any] = {"experiment": "training", "provenance": provenance(), "memory": memory(options)}
    arms = {name: Arm(name, options.steps) for name in ARMS}
    train(arms, options)
    for key in ("seconds", "from_features", "tokens", "length"):
        record[key] = compare(arms, key)
    record["loss"] = {name: [round(step["loss"], 4) for step in arm.steps] for name, arm in arms.items()}
    record["accuracy"] = evaluate(arms, options)
    settings = {name: getattr(options, name) for name in ("steps", "batch", "n", "seed")}
    record["config"] = {**settings, "learning_rate": demo.LEARNING_RATE, "kinds": list(demo.KINDS), "dtype": "float32"}
    save(record, options.out)
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
