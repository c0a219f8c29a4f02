"""``python -m tests.architectures``: try every architecture and write ``benchmarks/results/architectures.json``.

The file holds one run for each version of transformers that it was made with; a run replaces the one of its version.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import warnings
from collections import Counter
from dataclasses import asdict
from typing import Any

import torch
from transformers.utils import logging

from benchmarks.records import RESULTS, load
from tests.architectures.build import architectures
from tests.architectures.sweep import try_architecture
from trimkit.io.provenance import versions

_FILE = RESULTS / "architectures.json"


def main() -> int:
    """Exit code 1 where an architecture fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="try these model types, and replace their rows alone")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    outcomes = []
    for kind in only or architectures():
        outcomes.append(try_architecture(kind))
        print(f"{kind:24} {outcomes[-1].result:12} {outcomes[-1].note}", flush=True)
    print(dict(Counter(outcome.result for outcome in outcomes)))
    _write([{**asdict(outcome), "model": architectures()[outcome.kind]} for outcome in outcomes])
    return int(any(outcome.result == "failed" for outcome in outcomes))


def _write(rows: list[dict[str, Any]]) -> None:
    found = versions()
    before = (load("architectures") or {}).get("runs", {})
    others = before.get(found["transformers"], {"architectures": []})["architectures"]
    new = {row["kind"] for row in rows}
    rows = sorted([*rows, *(row for row in others if row["kind"] not in new)], key=lambda row: str(row["kind"]))
    run = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "versions": found, "architectures": rows}
    runs = {**before, found["transformers"]: run}
    record = {
        "experiment": "architectures",
        "command": "make architectures",
        "runs": dict(sorted(runs.items(), key=lambda item: [int(part) for part in item[0].split(".")[:3]])),
    }
    _FILE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
