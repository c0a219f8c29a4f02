"""All that has to be measured on a GPU, in at most eight minutes: ``make gpu``, or ``python -m benchmarks.gpu``.

For one GPU with 80 GB. Nothing is downloaded; weights are random and made on the GPU. Each step runs in a process of its
own with a time limit, and what it has found is written at once: a step that fails or runs out of time says so in one line, and
the next one begins. The exit code is 0 all the same. ``--dry-run`` runs the same steps with tiny shapes on the CPU.

    python -m benchmarks.gpu --out gpu.json
    python -m benchmarks.gpu --wheels wheels        # packages that are missing there, from a directory (make gpu-wheels)
    python -m benchmarks.gpu --only choosing,shapes
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.blocks import ROOT
from benchmarks.gpu.steps import STEPS, Run, Step
from benchmarks.records import save

LIMIT = 8 * 60
_LAST = 5
"""Seconds for the parent to write and end."""


def run_step(step: Step, seconds: float, out: Path, plain: bool = False) -> dict[str, Any]:
    """One step in its own process; its parts are read from the lines it has written so far, whatever became of it."""
    parts, log = out.with_suffix(f".{step.name}.parts"), out.with_suffix(f".{step.name}.log")
    parts.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu.steps", step.name, str(parts), str(seconds)]
    command.append("plain" if plain else "kernels")
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            code = None
    spent = round(time.monotonic() - start, 1)
    found = [json.loads(line) for line in parts.read_text(encoding="utf-8").splitlines()] if parts.is_file() else []
    status, why = "done", None
    if code is None:
        status, why = "out of time", f"stopped after {seconds:.0f} s; what it had found is kept"
    elif code:
        status, why = "failed", _last_line(log)
    for path in (parts, log) if status == "done" else (parts,):
        path.unlink(missing_ok=True)
    return {"status": status, "why": why, "seconds": spent, "limit_s": round(seconds, 1), "parts": found}


def run_here(step: Step, out: Path) -> dict[str, Any]:
    """One step of a dry run, in this process and without a limit: only torch's import would be slow in one of its own."""
    parts = out.with_suffix(f".{step.name}.parts")
    parts.unlink(missing_ok=True)
    start, status, why = time.monotonic(), "done", None
    try:
        step.run(Run(parts, step.seconds, dry=True))
    except (Exception, SystemExit) as error:
        status, why = "failed", f"{type(error).__name__}: {error}".splitlines()[0][:300]
    found = [json.loads(line) for line in parts.read_text(encoding="utf-8").splitlines()] if parts.is_file() else []
    parts.unlink(missing_ok=True)
    return {"status": status, "why": why, "seconds": round(time.monotonic() - start, 1), "parts": found}


def _end(process: subprocess.Popen[bytes]) -> None:
    """The step, and what it has started."""
    import signal

    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def install(wheels: Path) -> str:
    """Put a directory's wheels into a temporary place, for this run alone; returns that place.

    Raises:
        SystemExit: there are none, or pip refuses.
    """
    found = sorted(str(path) for path in wheels.glob("*.whl"))
    if not found:
        raise SystemExit(
            f"{wheels} has no wheels: run make gpu-wheels where there is a network, and bring the directory along"
        )
    target = tempfile.mkdtemp(prefix="trimkit-wheels-")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    if subprocess.run([*pip, "--no-compile", "--target", target, *found]).returncode:
        raise SystemExit("pip could not install the wheels: see its lines above")
    return target


def main() -> int:
    """Run the steps and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=None, help="default: benchmarks/results/gpu.json; out/ for a dry run"
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU, to see that all of it works")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for everything")
    parser.add_argument("--only", help="steps, with commas between: " + ", ".join(step.name for step in STEPS))
    parser.add_argument("--wheels", type=Path, help="a directory of wheels to use for this run")
    parser.add_argument(
        "--merge", type=Path, nargs="+", help="results of runs with --only, to be one result; runs nothing"
    )
    given = parser.parse_args()
    if given.merge:
        merge(given.merge, given.out or ROOT / "benchmarks" / "results" / "gpu.json")
        return 0
    wanted = None if given.only is None else set(given.only.split(","))
    if unknown := (wanted or set()) - {step.name for step in STEPS}:
        parser.error(f"no step {sorted(unknown)[0]!r}: give some of {', '.join(step.name for step in STEPS)}")
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    if given.wheels is not None:
        paths.insert(0, install(given.wheels))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    if given.dry_run:
        sys.path.insert(0, str(ROOT / "src"))
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch comes: tiny shapes gain nothing from more
    # In a process of its own, as the steps: this one never touches the GPU.
    default = ROOT / "out" / "gpu-dry.json" if given.dry_run else ROOT / "benchmarks" / "results" / "gpu.json"
    out = (given.out or default).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "experiment": "gpu",
        "config": {"dry_run": given.dry_run, "limit_s": given.limit, "only": given.only},
        "steps": {step.name: {"status": "not run", "parts": []} for step in STEPS},
    }
    start = time.monotonic()
    for step in STEPS:
        if wanted is not None and step.name not in wanted:
            continue
        left = given.limit - _LAST - (time.monotonic() - start)
        if given.dry_run:
            record["steps"][step.name] = run_here(step, out)
        elif left < 5:
            record["steps"][step.name] |= {"why": "no time was left"}
        else:
            plain = record["steps"]["kernels"]["status"] in ("failed", "out of time")
            record["steps"][step.name] = run_step(step, min(step.seconds, left), out, plain)
        _lift_provenance(record)
        save(record, out)
        done = record["steps"][step.name]
        print(f"{step.name}: {done['status']}{', ' + done['why'] if done.get('why') else ''}", flush=True)
    print(f"wrote {out.name} after {time.monotonic() - start:.0f} s")
    return 0


def _lift_provenance(record: dict[str, Any]) -> None:
    """The first step that says what it ran on says it for all."""
    for step in record["steps"].values():
        for part in step["parts"]:
            if "provenance" in part and "provenance" not in record:
                record["provenance"] = part["provenance"]


def merge(paths: list[Path], out: Path) -> None:
    """The steps of runs that did some each, in one file; of a step that ran twice, the later run's."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    whole = records[0]
    for record in records[1:]:
        whole["steps"] |= {name: step for name, step in record["steps"].items() if step["status"] != "not run"}
    whole["config"]["only"] = None
    save(whole, out)
    print(f"wrote {out.name} of {len(records)} runs")


if __name__ == "__main__":
    sys.exit(main())
