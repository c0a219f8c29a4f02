"""Run the real ``lmms-eval`` command over the local task files, batch 1 and batch 8: ``python -m tests.lmms.run``.

Both have to give the same answers, and lmms-eval's metrics have to equal those of ``metrics.py`` to the last digit. Writes
``benchmarks/results/lmms_local.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.records import RESULTS
from benchmarks.run import provenance
from tests.lmms import data
from tests.lmms.metrics import METRICS

NAME = "lmms_local"
TASK_FILES = Path(__file__).parent / "tasks"


def command(work: Path, tasks: list[str], batch_size: int, model_args: str) -> list[str]:
    """The command line; it is run in the directory of the data."""
    line = [str(Path(sys.executable).with_name("lmms-eval")), "--model", "trimkit", "--model_args", model_args]
    line += ["--tasks", ",".join(f"local_{task}" for task in tasks), "--include_path", str(TASK_FILES)]
    return [*line, "--batch_size", str(batch_size), "--output_path", str(work), "--log_samples"]


def environment(work: Path) -> dict[str, str]:
    """No hub, and caches of its own; in lmms-eval's own way of saying it."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hf")}


def run(folder: Path, tasks: list[str], batch_size: int, model_args: str) -> dict[str, Any]:
    """One call of the command: metrics and answers by task.

    Raises:
        SystemExit: it failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        line = command(work, tasks, batch_size, model_args)
        done = subprocess.run(line, cwd=folder, env=environment(work), check=False, capture_output=True, text=True)
        results = [path for path in work.rglob("*_results.json") if path.parent.name != "submissions"]
        if done.returncode or len(results) != 1:
            raise SystemExit(f"{' '.join(line)}\nfailed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        found = json.loads(results[0].read_text(encoding="utf-8"))
        return {
            "metrics": {task: numbers(found["results"][f"local_{task}"]) for task in tasks},
            "answers": {task: logged(work, task) for task in tasks},
            "log": done.stdout + done.stderr,
        }


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """A task's metrics, without their filter and without errors of them."""
    named = {name.partition(",")[0]: value for name, value in result.items()}
    return {name: value for name, value in named.items() if isinstance(value, int | float) and "stderr" not in name}


def logged(work: Path, task: str) -> list[str]:
    """The answers that lmms-eval scored, in the order of the rows."""
    (path,) = work.rglob(f"*_samples_local_{task}.jsonl")
    samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [str(sample["filtered_resps"]) for sample in sorted(samples, key=lambda sample: sample["doc_id"])]


def own_metrics(answers: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """The metrics from their definitions, on the rows as they were made."""
    return {task: METRICS[task](data.TASKS[task](), said) for task, said in answers.items()}


def main() -> int:
    """Run both, compare, and save; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--method", default="random,budget=60", help="a weak one: a metric at its limit proves little")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{NAME}.json")
    given = parser.parse_args()
    tasks = list(data.TASKS)
    model_args = f"pretrained={given.model},method={given.method}"
    with tempfile.TemporaryDirectory() as scratch:
        data.write(Path(scratch))
        runs = {size: run(Path(scratch), tasks, size, model_args) for size in (8, 1)}
    own = own_metrics(runs[1]["answers"])
    record: dict[str, Any] = {"experiment": NAME, "config": {"model_args": model_args, "tasks": tasks}}
    record["provenance"] = provenance()
    record["provenance"]["versions"]["lmms_eval"] = version("lmms_eval")
    record["rows"] = {task: len(answers) for task, answers in runs[1]["answers"].items()}
    record["same_answers"] = runs[1]["answers"] == runs[8]["answers"]
    record["metrics_equal_definitions"] = own == runs[1]["metrics"]
    record["results"] = [{"batch_size": size, "metrics": found["metrics"]} for size, found in runs.items()]
    record["own_metrics"] = own
    record["answers"] = runs[1]["answers"]
    given.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(
        f"wrote {given.out}: same answers {record['same_answers']}, equal metrics {record['metrics_equal_definitions']}"
    )
    return 0 if record["same_answers"] and record["metrics_equal_definitions"] else 1


if __name__ == "__main__":
    sys.exit(main())
