"""Run one experiment through the ``trimkit`` command and write ``results/NAME.json``: ``python -m benchmarks.run NAME``.

Its config is ``experiments/NAME.json``, or ``EXPERIMENT`` in ``NAME.py`` of this folder. The result holds the config as it was
run, what it ran on, and what the command printed for each arm, unchanged. A config's ``on`` has further arguments for a machine
with a GPU (``cuda``) and for one without (``cpu``).
"""

from __future__ import annotations

import argparse
import copy
import datetime
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.blocks import ROOT
from benchmarks.records import RESULTS, save
from trimkit.io.provenance import hardware, versions

EXPERIMENTS = ROOT / "benchmarks" / "experiments"


def config_of(name: str) -> dict[str, Any]:
    """The config of an experiment: the object of its file, or a copy of its module's ``EXPERIMENT``.

    Raises:
        LookupError: there is none of that name, or one in both places.
    """
    path, module = EXPERIMENTS / f"{name}.json", ROOT / "benchmarks" / f"{name}.py"
    given = getattr(importlib.import_module(f"benchmarks.{name}"), "EXPERIMENT", None) if module.is_file() else None
    if given is not None and path.is_file():
        raise LookupError(f"experiment {name!r} has a config in {path.name} and in {module.name}: keep one")
    if given is not None:
        return copy.deepcopy(dict(given))
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in EXPERIMENTS.glob("*.json")))
        raise LookupError(f"no experiment {name!r}: give EXPERIMENT in benchmarks/{name}.py, or one of {known}")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def place() -> str:
    """``cuda`` where torch finds a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def placed(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The config with the arguments and arms that it has for this kind of machine, and without those for the other."""
    rest = {key: value for key, value in config.items() if key != "on"}
    own = dict(config.get("on", {}).get(where, {}))
    arms = {"arms": own.pop("arms")} if "arms" in own else {}
    return {**rest, **arms, "arguments": {**config.get("arguments", {}), **own}}


def provenance(device: str = "cpu") -> dict[str, Any]:
    """When, which code, which versions, which hardware. Nothing that names the machine or its user."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len(_git("status", "--porcelain", "--", "src").splitlines()),
        "versions": versions(),
        "hardware": hardware(device),
    }


def command_line(config: dict[str, Any], arm: dict[str, Any]) -> list[str]:
    """The arguments of one arm, without the interpreter; a list is an option given several times."""
    options = {**config.get("arguments", {}), **arm}
    values = [
        (name, item) for name, value in options.items() for item in (value if isinstance(value, list) else [value])
    ]
    flags = [part for name, value in values for part in (f"--{name.replace('_', '-')}", str(value))]
    return [*config["command"], *flags, "--json"]


def run_arm(config: dict[str, Any], arm: dict[str, Any]) -> dict[str, Any]:
    """One call of the command, in its own process; progress goes to the terminal."""
    line = command_line(config, arm)
    print("trimkit", *line, file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-c", "import trimkit.cli; trimkit.cli.main()", *line],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return {"command": ["trimkit", *line], **json.loads(done.stdout)}


def main() -> int:
    """Run the experiment named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of a file in benchmarks/experiments, or of a module with EXPERIMENT")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/NAME.json")
    for option in ("seed", "n"):
        parser.add_argument(f"--{option}", type=int, help=f"replaces the config's {option}")
    given = parser.parse_args()
    try:
        config = config_of(given.name)
    except LookupError as error:
        parser.error(str(error))
    for option in ("seed", "n"):
        if getattr(given, option) is not None:
            config.setdefault("arguments", {})[option] = getattr(given, option)
    config = placed(config, place())
    device = str(config["arguments"].get("device", "cpu"))
    out = given.out or RESULTS / f"{given.name}.json"
    for arm in config["arms"]:  # journals of finished answers: the command makes the file, not its directory
        if "journal" in {**config.get("arguments", {}), **arm}:
            Path({**config["arguments"], **arm}["journal"]).parent.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    complete({"experiment": given.name, "config": config, "provenance": provenance(device)}, out)
    print(f"wrote {out}")
    return 0


def complete(record: dict[str, Any], out: Path) -> None:
    """Run the record's arms and write it.

    The arms that an interrupted run finished are not run again, if it was of the same commit with nothing changed in ``src``.
    """
    partial = out.with_suffix(".partial")
    done = json.loads(partial.read_text(encoding="utf-8")) if partial.is_file() else {}
    same = _but_for_the_date(done) == _but_for_the_date(record) and record["provenance"]["changed_files"] == 0
    record["results"] = done["results"] if same else []
    for arm in record["config"]["arms"][len(record["results"]) :]:
        record["results"].append(run_arm(record["config"], arm))
        save(record, partial)
    partial.replace(out)


def _but_for_the_date(record: dict[str, Any]) -> dict[str, Any]:
    """What two runs have to share for one to go on from the other."""
    about = {key: value for key, value in record.get("provenance", {}).items() if key != "date"}
    return {"experiment": record.get("experiment"), "config": record.get("config"), "provenance": about}


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], check=False, capture_output=True, text=True)
    except OSError:  # a copy without git
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
