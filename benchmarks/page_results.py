"""The measured times that the page of ``trimkit demo`` shows: ``python -m benchmarks.page_results`` (``--check`` compares).

Takes them from result files, arm by arm beside the full model of the same run, and writes ``src/trimkit/web/measured.json``,
which the wheel has. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from benchmarks.blocks import ROOT
from benchmarks.records import Record, load

FILE = ROOT / "src" / "trimkit" / "web" / "measured.json"
RESULTS = ("bench_claim", "bench_prefill_7b", "bench_rivals")


def rows(name: str, record: Record) -> list[dict[str, Any]]:
    """One row a reduced arm whose run has the full model at the same batch and length."""
    found = []
    for part in record["results"]:
        full = {(arm["batch_size"], arm["new_tokens"]): arm for arm in part["arms"] if arm["method"] == "none"}
        for arm in part["arms"]:
            beside = full.get((arm["batch_size"], arm["new_tokens"]))
            if arm["method"] == "none" or beside is None or arm.get("tower_keep"):
                continue
            found.append(_row(name, part, arm, beside, part.get("provenance", record["provenance"])))
    return found


def _row(name: str, part: Record, arm: Record, full: Record, provenance: Record) -> dict[str, Any]:
    machine, shape = provenance["hardware"], part["command"][part["command"].index("--random") + 1]
    reduced_s, full_s = arm.get("extrapolated") or arm, full.get("extrapolated") or full
    layers = (
        f", scaled up from {reduced_s['from_layers']} of {reduced_s['to_layers']} layers"
        if reduced_s is not arm
        else ""
    )
    return {
        "what": f"{shape}, {arm['new_tokens']} new token{'' if arm['new_tokens'] == 1 else 's'}{layers}",
        "method": arm["method"],
        "tokens": round(arm["image_tokens"]),
        "tokens_full": round(full["image_tokens"]),
        "first_s": reduced_s["ttft_s"]["median"],
        "first_full_s": full_s["ttft_s"]["median"],
        "whole_s": reduced_s["end_to_end_s"]["median"],
        "whole_full_s": full_s["end_to_end_s"]["median"],
        "on": f"{machine['cpu']}, {machine['threads']} thread(s)" if machine["device"] == "cpu" else machine["device"],
        "source": f"{name}.json",
    }


def built() -> str:
    """The file's text, from the results that are there."""
    records = {name: load(name) for name in RESULTS}
    every = [row for name, record in records.items() if record is not None for row in rows(name, record)]
    return json.dumps({"rows": every}, indent=1) + "\n"


def main() -> int:
    """Write or compare; 1 where the file is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    text = built()
    if parser.parse_args().check:
        current = FILE.is_file() and FILE.read_text(encoding="utf-8") == text
        print(f"{FILE.name} is {'current' if current else 'out of date: run python -m benchmarks.page_results'}")
        return 0 if current else 1
    FILE.write_text(text, encoding="utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
