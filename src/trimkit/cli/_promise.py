"""``trimkit calibrate --risk``: what is promised, the curve with its bounds, and the config."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimkit.cli import _common as common
from trimkit.cli._progress import progress
from trimkit.io.text import one_line

if TYPE_CHECKING:
    from trimkit.calibration import RiskCalibration

__all__ = ["Wanted", "run"]


@dataclass(frozen=True)
class Wanted:
    """The promise that is wanted, and of how many pictures and questions."""

    risk: float
    confidence: float
    measure: str
    fallback: bool
    max_images: int
    per_image: int


def run(
    sources: tuple[str, str | None],
    methods: Sequence[Any],
    wanted: Wanted,
    limits: dict[str, Any],
    loading: tuple[str, str, str],
    target: Path | None,
    *,
    as_json: bool,
) -> None:
    """Prove a promise, print it, and save the config that keeps it.

    Args:
        sources: the directory of pictures, and the file of questions or None.
        methods: what is tried.
        wanted: the promise.
        limits: as ``calibrate_risk`` takes them.
        loading: model, device and dtype.
        target: where the config goes, or None.
        as_json: print JSON.
    """
    from trimkit.calibration import calibrate_risk, count_risk_passes, read_sources, split_pictures
    from trimkit.config import save_config

    read = read_sources(*sources, limit=wanted.max_images, seed=limits["seed"])
    split_pictures(len(read.pictures), wanted.risk, wanted.confidence, 0)  # too few: said before the model is loaded
    started = time.perf_counter()
    with common.quiet():
        loaded, processor = common.load(*loading)
        total = count_risk_passes(len(methods)) * len(read.pictures) * wanted.per_image
        with progress("calibrate", total) as advance:
            found = calibrate_risk(
                loaded,
                processor,
                read.pictures,
                read.questions,
                risk=wanted.risk,
                confidence=wanted.confidence,
                measure=wanted.measure,  # type: ignore[arg-type]  # checked there
                method=methods,
                fallback=wanted.fallback,
                per_picture=wanted.per_image,
                advance=advance,
                **limits,
            )
    config = found.config.model_copy(update={"calibration": {"model": loading[0], **(found.config.calibration or {})}})
    if target is not None:
        save_config(target, config)
    skipped = [*read.skipped, *found.skipped]
    if as_json:
        said = {**found.to_plain(), "config": config.model_dump(mode="json", exclude_none=True)}
        said |= {"model": loading[0], "seconds": round(time.perf_counter() - started, 1)}
        common.print_json(said | {"skipped": [{"name": name, "reason": reason} for name, reason in skipped]})
        return
    for name, reason in skipped:
        print(f"skipped {one_line(name)}: {one_line(reason)}", file=sys.stderr)
    _print(found)
    print(f"saved     {target}" if target is not None else "saved     nothing: -o FILE saves a config")


def _print(found: RiskCalibration) -> None:
    """The curve, and the promise below it."""
    said = found.to_plain()
    pictures = said["pictures"]
    print(f"{pictures['choosing']} pictures chose what is tried, {pictures['proving']} others prove it")
    for step in said["curve"]:
        _print_step(step)
    if said["smallest_fixed_budget"] is not None:
        print("without asking again")
        _print_step(said["smallest_fixed_budget"])
    for note in said["notes"]:
        print(f"note      {note}")
    print(f"promise   {said['promise']}")


def _print_step(step: dict[str, Any]) -> None:
    budget = step["budget"] if isinstance(step["budget"], str | int) else f"{step['budget']:.3g}"
    verdict = "proved" if step["proved"] else "not proved"
    print(
        f"  {step['method']:<10} {budget:<8} asked again {step['asked_again']:6.1%}  {step['image_tokens']:6.1f} tokens  "
        f"changed {step['observed']:6.2%}, at most {step['bound']:6.2%}  {verdict}"
    )
