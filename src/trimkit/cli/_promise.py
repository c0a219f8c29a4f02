"""``trimkit calibrate --risk``: what is promised, the curve with its bounds, and the config."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimkit.cli import _common as common
from trimkit.cli._progress import progress
from trimkit.cli._skipped import print_skipped

if TYPE_CHECKING:
    from trimkit.calibration import RiskCalibration
    from trimkit.eval.journal import Journal

__all__ = ["Wanted", "run"]

_LINES = 12  # of the curve that are printed; --json has all


@dataclass(frozen=True)
class Wanted:
    """The promise that is wanted, and of how many pictures and questions."""

    risk: float
    confidence: float
    measure: str
    fallback: bool
    max_images: int
    per_image: int

    @property
    def options(self) -> dict[str, Any]:
        """As ``calibrate_risk`` takes them."""
        promise = {"risk": self.risk, "confidence": self.confidence, "measure": self.measure}
        return {**promise, "fallback": self.fallback, "per_picture": self.per_image}


def run(
    sources: tuple[str, str | None],
    methods: Sequence[Any],
    wanted: Wanted,
    limits: dict[str, Any],
    loading: tuple[str, str, str],
    target: Path | None,
    *,
    resume: str | None,
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
        resume: file of finished questions, or None.
        as_json: print JSON.
    """
    from trimkit.calibration import calibrate_risk, count_risk_passes, files_of, read_sources, split_pictures
    from trimkit.config import save_config
    from trimkit.eval.journal import check_journal

    check_journal(resume, [sources[1], *files_of(sources[0]), *common.model_files(loading[0])])
    read = read_sources(*sources, limit=wanted.max_images, seed=limits["seed"])
    split_pictures(len(read.pictures), wanted.risk, wanted.confidence, 0)  # too few: said before the model is loaded
    started = time.perf_counter()
    with common.quiet():
        loaded, processor = common.load(*loading)
        total = count_risk_passes(len(methods)) * len(read.pictures) * wanted.per_image
        with progress("calibrate", total) as advance, _journal(resume, loaded, loading, limits) as book:
            more: dict[str, Any] = {**wanted.options, **limits, "labels": read.labels, "book": book, "advance": advance}
            found = calibrate_risk(loaded, processor, read.pictures, read.questions, method=methods, **more)
    config = found.config.model_copy(update={"calibration": {"model": loading[0], **(found.config.calibration or {})}})
    if target is not None:
        save_config(target, config)
    skipped = [*read.skipped, *found.skipped]
    if as_json:
        said = {**found.to_plain(), "config": config.model_dump(mode="json", exclude_none=True)}
        said |= {"model": loading[0], "seconds": round(time.perf_counter() - started, 1)}
        common.print_json(said | {"skipped": [{"name": name, "reason": reason} for name, reason in skipped]})
        return
    print_skipped(skipped)
    _print(found)
    print(f"saved     {target}" if target is not None else "saved     nothing: -o FILE saves a config")


@contextlib.contextmanager
def _journal(
    path: str | None, model: Any, loading: tuple[str, str, str], limits: dict[str, Any]
) -> Iterator[Journal | None]:
    """Finished questions of this model, asked in this way; None where no file is given."""
    if path is None:
        yield None
        return
    from trimkit.cli import _evaluation as evaluation
    from trimkit.eval.identity import scorer_identity, weights_identity
    from trimkit.pipeline.model_store import scorer_of

    model_name, device, dtype = loading
    fixed = {name: limits[name] for name in ("max_new_tokens", "batch_size")}
    own = None if limits["scorer"] is None else scorer_of(model, limits["scorer"])
    fixed["scorer"] = None if own is None else scorer_identity(own)
    told = {"model": model_name, "weights": weights_identity(model), "device": device, "dtype": dtype, **fixed}
    with evaluation.journal(path, calibration="risk", **told) as journal:
        yield journal


def _print(found: RiskCalibration) -> None:
    """The curve, and the promise below it."""
    said = found.to_plain()
    pictures = said["pictures"]
    print(f"{pictures['choosing']} pictures chose what is tried, {pictures['proving']} others prove it")
    curve = said["curve"]
    proved = sum(step["proved"] for step in curve)
    shown = {*range(0, proved + 1, max((proved + 1) // _LINES, 1)), proved - 1, proved}
    seen = {(curve[at]["image_tokens"], curve[at]["proved"]): at for at in sorted(shown) if 0 <= at < len(curve)}
    for at in seen.values():
        _print_step(curve[at])
    if said["smallest_fixed_budget"] is not None:
        print("without asking again")
        _print_step(said["smallest_fixed_budget"])
    for note in said["notes"]:
        print(f"note      {note}")
    print(f"promise   {said['promise']}")


def _print_step(step: dict[str, Any]) -> None:
    budget = " > ".join(
        f"{each:.3g}" if isinstance(each, float) else str(each) for each in (step["budget"], *step.get("ladder", ()))
    )
    verdict = "proved" if step["proved"] else "not proved"
    print(
        f"  {step['method']:<10} {budget:<15} asked again {step['asked_again']:6.1%}  {step['image_tokens']:6.1f} tokens  "
        f"changed {step['observed']:6.2%}, at most {step['bound']:6.2%}  {verdict}"
    )
