"""Rebuilds the embedded demo model from nothing: assets, tower, cache, language model, export, evaluation, samples, card."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

# Minutes are for two CPU cores with AVX512_BF16. Stages read and write .cache/demo; one that is done can be left out.
STAGES: dict[str, tuple[str, ...]] = {
    "assets": ("build_assets",),
    "tower": (
        "train_clip --minutes 24 --grid 12 --objects 3 6 --batch 40 --lr 1.5e-3 --seed 1",
        "train_clip --minutes 15 --grid 12 --objects 3 6 --batch 40 --lr 1.3e-3 --seed 2 --resume",
        "train_clip --minutes 12 --grid 24 --objects 6 12 --batch 10 --lr 1e-3 --seed 3 --resume",
    ),
    "cache": ("lm_data --train 8000 --held-out 256",),
    "lm": ("train_lm --minutes 205",),
    "export": ("export",),
    "evaluate": ("evaluate --n 2000",),
    "finish": ("samples", "card"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    args = parser.parse_args()
    for stage in args.stages:
        for command in STAGES[stage]:
            began = time.time()
            print(f"== {stage}: {command}", flush=True)
            module, *options = command.split()
            subprocess.run([sys.executable, "-u", "-m", f"recipes.demo.{module}", *options], check=True)
            print(f"== {stage}: {(time.time() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
