"""Measure one method for the leaderboard: ``python -m benchmarks.leaderboard_row METHOD``.

It asks the leaderboard's own questions at its own budgets, times the choice, and writes ``results/rows/METHOD.json``. Then run
``python -m benchmarks.tables``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.leaderboard import SUITE
from benchmarks.records import RESULTS, load
from benchmarks.run import complete, provenance, run_arm

__all__ = ["config_for"]


def config_for(method: str, n: int | None = None) -> dict[str, Any]:
    """The experiment of one method: the questions, budgets and seed of ``results/suite_ten_types.json``.

    Raises:
        LookupError: the suite has not been run.
    """
    record = load(SUITE)
    if record is None:
        raise LookupError(f"no results/{SUITE}.json: python -m benchmarks.run {SUITE}")
    asked = record["config"]["arguments"]
    kept = {key: asked[key] for key in ("seed", "n", "types", "budget", "dtype") if key in asked}
    arguments = {**kept, "method": method, "ours": method, **({} if n is None else {"n": n})}
    question = f"What does {method} keep, on the leaderboard's questions?"
    return {"question": question, "command": ["eval", "suite"], "arguments": arguments, "arms": [{}]}


def time_choice(method: str) -> dict[str, Any]:
    """``trimkit bench`` of the method on LLaVA-1.5's tower, as ``bench_rivals`` does it."""
    arguments = {"random": "clip-l-336", "method": method, "budget": "121", "device": "cpu", "dtype": "float32"}
    return run_arm({"command": ["bench"], "arguments": {**arguments, "repeats": 5}}, {})


def main() -> int:
    """Run the suite for one method, time it, and write its row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", help="name of a registered method; 'trimkit methods' lists them")
    parser.add_argument("--n", type=int, help="fewer questions, for a quick look")
    parser.add_argument("--no-bench", action="store_true", help="do not time the choice")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/rows/METHOD.json")
    given = parser.parse_args()
    from trimkit import TrimkitError, get_method

    try:
        get_method(given.method)
        config = config_for(given.method, given.n)
    except (LookupError, TrimkitError) as error:
        parser.error(str(error))
    out = given.out or RESULTS / "rows" / f"{given.method}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    timed = {} if given.no_bench else {"bench": time_choice(given.method)}
    complete({"experiment": f"rows/{given.method}", "config": config, "provenance": provenance("cpu"), **timed}, out)
    print(f"wrote {out}; now run python -m benchmarks.tables")
    return 0


if __name__ == "__main__":
    sys.exit(main())
