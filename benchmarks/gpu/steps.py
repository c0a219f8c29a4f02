"""The steps of ``python -m benchmarks.gpu``; one of them: ``python -m benchmarks.gpu.steps NAME PARTS SECONDS LOOPS``.

A step writes a line of JSON to the file PARTS for everything that it has found, as it goes. Only the steps import torch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["STEPS", "Run", "Step"]


class Run:
    """One run of a step.

    Args:
        parts: the file to write to.
        seconds: that it may take.
        dry: tiny shapes on the CPU.
        plain: choices in plain torch, since the kernels did not work.
    """

    def __init__(self, parts: Path, seconds: float, dry: bool, plain: bool = False) -> None:
        self._parts, self._end, self.dry, self.plain = parts, time.monotonic() + seconds, dry, plain

    @property
    def device(self) -> str:
        """Where to run.

        Raises:
            RuntimeError: there is no GPU, and this is no dry run.
        """
        import torch

        if self.dry:
            return "cpu"
        if not torch.cuda.is_available():
            raise RuntimeError("torch finds no GPU here: use --dry-run, or a machine with one")
        return "cuda"

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def write(self, **part: Any) -> None:
        """Keep what was found, whatever happens next."""
        with self._parts.open("a", encoding="utf-8") as file:
            file.write(json.dumps(part) + "\n")

    def fits(self, seconds: float, **what: Any) -> bool:
        """Whether so much time is left; where it is not, the part is written as not run."""
        if self.dry or self.left > seconds:
            return True
        self.write(**what, status="not run", why=f"{self.left:.0f} s were left, about {seconds:.0f} are needed")
        return False


def _work(name: str, module: str = "work") -> Callable[[Run], None]:
    def run(given: Run) -> None:
        import importlib

        if given.plain:
            from trimkit.core import greedy

            greedy.KERNELS_ON.clear()
        from benchmarks.run import provenance

        given.write(provenance=provenance(given.device))
        getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)(given)

    return run


@dataclass(frozen=True)
class Step:
    """``seconds`` is the most that it may take; ``run`` does it."""

    name: str
    seconds: float
    run: Callable[[Run], None]


STEPS = (
    Step("kernels", 30, _work("kernels", "added")),
    Step("tests", 30, _work("tests")),
    Step("waits", 25, _work("waits")),
    Step("added", 50, _work("added", "added")),
    Step("here", 20, _work("here", "here")),
    Step("shapes", 75, _work("shapes")),
    Step("claim", 80, _work("claim")),
    Step("choosing", 40, _work("choosing")),
    Step("compiled", 125, _work("compiled")),
)
"""In this order: where ``kernels`` fails, the others choose in plain torch."""


def main() -> None:
    """Run one step in this process."""
    name, parts, seconds, loops = sys.argv[1:]
    step = next(step for step in STEPS if step.name == name)
    step.run(Run(Path(parts), float(seconds), dry=False, plain=loops == "plain"))


if __name__ == "__main__":
    main()
