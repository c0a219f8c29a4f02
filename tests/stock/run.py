"""Run transformers' own generation tests without and with trimkit: ``python -m tests.stock.run --transformers DIR``.

DIR is a checkout of transformers at the installed version: the tests are not in the wheel. With trimkit, every model that
a test builds is attached with everything kept, so each test must come out as it does without.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trimkit
from benchmarks.records import RESULTS
from benchmarks.run import provenance

NAME = "stock_generation_tests"
FAMILIES = {
    "llava": "LlavaForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
}
NEEDED = {"parameterized": "parameterized", "xdist": "pytest-xdist", "httpx": "httpx", "requests": "requests"}


def counts(outcomes: dict[str, str]) -> dict[str, int]:
    """How many tests passed, were skipped, failed."""
    found = collections.Counter(outcomes.values())
    return {outcome: found[outcome] for outcome in ("passed", "skipped", "failed")}


def differences(stock: dict[str, str], attached: dict[str, str]) -> dict[str, dict[str, str]]:
    """The tests that came out differently, or ran only once."""
    pairs = {
        name: {"stock": stock.get(name, "not run"), "attached": attached.get(name, "not run")}
        for name in sorted({*stock, *attached})
    }
    return {name: pair for name, pair in pairs.items() if pair["stock"] != pair["attached"]}


def compare(family: str, stock: dict[str, Any], attached: dict[str, Any]) -> dict[str, Any]:
    """One family's entry of the result, from what the plugin recorded in either run."""
    return {
        "family": family,
        "model": FAMILIES[family],
        "stock": counts(stock["outcomes"]),
        "attached": counts(attached["outcomes"]),
        "differ": differences(stock["outcomes"], attached["outcomes"]),
        "failures": {"stock": stock["messages"], "attached": attached["messages"]},
        "through_trimkit": {**attached["calls"], "tests": attached["tests_through"]},
        "outcomes": attached["outcomes"],
    }


def holds(entry: dict[str, Any]) -> bool:
    """Whether all came out the same, and trimkit was there: generate, forward and the reduction itself were called."""
    through = entry["through_trimkit"]
    return not entry["differ"] and all(through.get(kind, 0) > 0 for kind in ("generate", "forward", "with_images"))


def run_tests(checkout: Path, family: str, record: Path, extra: list[str]) -> dict[str, Any]:
    """One pytest over a family's test file; what its plugin recorded.

    Raises:
        SystemExit: pytest did not get to the tests.
    """
    here = Path(__file__).parent
    # Their tests import the package from the checkout once more: it has to be the one that all others import as well.
    paths = [here, checkout / "src", Path(trimkit.__file__).parents[1], *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {name: value for name, value in os.environ.items() if name not in ("RUN_SLOW", "PYTEST_ADDOPTS")}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", "pytest", "-q", "-p", "attach_plugin", "-p", "no:cacheprovider", *extra]
    line += ["--trimkit-record", str(record), f"tests/models/{family}/test_modeling_{family}.py"]
    done = subprocess.run(line, cwd=checkout, env=environment, check=False, stdout=sys.stderr)
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if not found.get("outcomes"):
        raise SystemExit(f"no generation test of {family} ran (pytest exit code {done.returncode}): see above")
    return found


def run_family(checkout: Path, family: str, extra: list[str]) -> dict[str, Any]:
    """Both runs of a family."""
    with tempfile.TemporaryDirectory() as work:
        stock = run_tests(checkout, family, Path(work) / "stock.json", extra)
        attach = ["--trimkit-attach", FAMILIES[family]]
        attached = run_tests(checkout, family, Path(work) / "attached.json", [*extra, *attach])
    return compare(family, stock, attached)


def checkout_version(checkout: Path) -> str:
    """The version that a checkout says it is."""
    for path in (checkout / "src" / "transformers" / "__init__.py", checkout / "setup.py"):
        if path.is_file():
            stated = re.search(r"^\s*(?:__version__ = |version=)\"([^\"]+)\"", path.read_text(encoding="utf-8"), re.M)
            if stated:
                return stated.group(1)
    return "unknown"


def arguments() -> argparse.Namespace:
    """The command line, checked.

    Raises:
        SystemExit: with one line that says what is wrong.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transformers", type=Path, required=True, metavar="DIR", help="a checkout of transformers")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--out", type=Path, help=f"default: benchmarks/results/{NAME}.json, where all families ran")
    parser.add_argument("--note", help="goes into the result: what DIR is, where it is no plain checkout")
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests that match, as pytest takes it; nothing is saved")
    given = parser.parse_args()
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        parser.error(f"transformers' tests need {' and '.join(missing)}: pip install {' '.join(missing)}")
    absent = [name for name in given.families if not (given.transformers / "tests" / "models" / name).is_dir()]
    if absent:
        parser.error(f"{given.transformers} has no tests/models/{absent[0]}: give a checkout of transformers")
    return given


def main() -> int:
    """Run, print and save; 1 where trimkit made a difference."""
    given = arguments()
    extra = [] if given.k is None else ["-k", given.k]
    entries = [run_family(given.transformers.resolve(), family, extra) for family in given.families]
    config = {
        "question": "Do stock generation tests come out alike without trimkit and with it, everything kept?",
        "attach": {"method": "random", "budget": 1.0},
        "checkout": checkout_version(given.transformers),
        **({} if given.note is None else {"note": given.note}),
    }
    record: dict[str, Any] = {"experiment": NAME, "config": config, "provenance": provenance()}
    record["provenance"]["versions"] |= {name: version(name) for name in ("pytest", "parameterized")}
    record["results"] = entries
    out = given.out
    if out is None and given.k is None and set(given.families) == set(FAMILIES):
        out = RESULTS / f"{NAME}.json"
    if out is not None:
        out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for entry in entries:
        shown = {key: entry[key] for key in ("stock", "attached", "differ", "through_trimkit")}
        print(f"{entry['family']}: {json.dumps(shown)}")
    return 0 if all(map(holds, entries)) else 1


if __name__ == "__main__":
    sys.exit(main())
