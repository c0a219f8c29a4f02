"""``trimkit calibrate``: sign, normalisation, temperature and budget for a user's own model, without labels."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimkit.cli import _common as common
from trimkit.cli import _promise
from trimkit.cli._progress import progress
from trimkit.cli._skipped import print_skipped
from trimkit.errors import ConfigError, InputError
from trimkit.io.numbers import MAX_BATCH, MAX_QUESTIONS, MAX_SEED

if TYPE_CHECKING:
    from trimkit.calibration import Calibration

NAME = "calibrate"


def command(
    images: Annotated[str, typer.Option("--images", help="A directory of pictures like those you will ask about.")],
    questions: Annotated[
        str | None,
        typer.Option(
            "--questions",
            help=".jsonl or .csv with image and question, or text with one question a line.",
            show_default="a few general ones",
        ),
    ] = None,
    model: common.ModelOption = "demo",
    scorer: common.ScorerOption = None,
    method: common.MethodOption = None,
    settings: common.SetOption = None,
    agreement: Annotated[
        float, typer.Option("--agreement", help="Share of answers that must stay the same; picks the budget.")
    ] = 0.95,
    risk: Annotated[
        float | None,
        typer.Option(
            "--risk", help="Promise that at most this share of answers changes, for example 0.02, and prove it."
        ),
    ] = None,
    confidence: Annotated[float, typer.Option("--confidence", help="With --risk: confidence of the promise.")] = 0.95,
    measure: Annotated[
        str,
        typer.Option(
            "--measure",
            help="With --risk: what is not to change, 'answer', 'divergence', or 'task-metric' (right answers, by \"answer\" "
            "in the questions).",
        ),
    ] = "answer",
    fallback: Annotated[
        bool,
        typer.Option("--fallback/--no-fallback", help="With --risk: ask again with all tokens if the model is unsure."),
    ] = True,
    knee: Annotated[bool, typer.Option("--knee", help="Pick the budget at the curve's knee instead.")] = False,
    max_images: Annotated[
        int | None,
        typer.Option(
            "--max-images",
            min=1,
            max=MAX_QUESTIONS,
            help="Most pictures to use; the seed draws them.",
            show_default="64; 600 with --risk",
        ),
    ] = None,
    per_image: Annotated[
        int | None,
        typer.Option(
            "--per-image",
            min=1,
            max=MAX_QUESTIONS,
            help="Most questions per picture.",
            show_default="2; 1 with --risk",
        ),
    ] = None,
    max_new_tokens: common.MaxNewTokensOption = 8,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=MAX_BATCH, help="Prompts per generate call.")
    ] = 8,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MAX_SEED, help="Seed of the draw of pictures and of the intervals.")
    ] = 0,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    output: Annotated[str | None, typer.Option("--output", "-o", help="Save the config to this file.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", help="With --risk: file of finished questions; an interrupted run goes on from there."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Save the result even with too few pictures.")] = False,
    as_json: common.JsonOption = False,
) -> None:
    """Choose sign, positions, temperature and budget for your model.

    Give your pictures and, better, your questions. You need no labels: the result stays closest to what the model says with all
    image tokens. Pass the saved file to other commands with --config.

    With --risk, it finds the fewest tokens with which at most that share of answers changes, and proves it on other pictures.
    """
    from trimkit.calibration import files_of

    given = (images, questions)
    target = common.check_output(output, questions, resume, *files_of(images), model=model, scorer=scorer)
    limits = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "seed": seed, "scorer": scorer}
    where = (model, device, dtype)
    if risk is not None:
        wanted = _promise.Wanted(risk, confidence, measure, fallback, max_images or 600, per_image or 1)
        methods = common.pick_methods(method or "focus", None, settings, model=model)
        _promise.run(given, methods, wanted, limits, where, target, resume=resume, as_json=as_json)
        return
    if resume is not None:
        raise ConfigError("--resume goes with --risk: leave it out")
    chosen = common.pick_method(method, None, settings, model=model)
    how = {**limits, "method": chosen, "agreement": None if knee else agreement, "per_picture": per_image or 2}
    _calibrate(given, max_images or 64, how, where, target, force=force, as_json=as_json)


def _calibrate(
    given: tuple[str, str | None],
    max_images: int,
    how: dict[str, Any],
    where: tuple[str, str, str],
    target: Path | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Choose by the pictures of ``given``, print what was found, and save it to ``target``."""
    from trimkit.calibration import calibrate, count_passes, read_sources
    from trimkit.config import save_config

    sources = read_sources(*given, limit=max_images, seed=how["seed"])
    save = target is not None and not force
    _refuse_few(len(sources.pictures), save)
    started = time.perf_counter()
    with common.quiet():
        loaded, processor = common.load(*where)
        total = count_passes(how["method"]) * len(sources.pictures) * how["per_picture"]
        with progress("calibrate", total) as advance:
            found = calibrate(loaded, processor, sources.pictures, sources.questions, **how, advance=advance)
    model = where[0]
    config = found.config.model_copy(update={"calibration": {"model": model, **(found.config.calibration or {})}})
    _refuse_few(found.settings["pictures"], save)
    if target is not None:
        save_config(target, config)
    skipped = [*sources.skipped, *found.skipped]
    if as_json:
        seconds = round(time.perf_counter() - started, 1)
        common.print_json(_as_json(found, config.model_dump(mode="json", exclude_none=True), skipped, model, seconds))
        return
    print_skipped(skipped)
    _print(found)
    print(f"saved     {target}" if target is not None else "saved     nothing: -o FILE saves a config")


def _as_json(
    found: Calibration, config: dict[str, Any], skipped: list[tuple[str, str]], model: str, seconds: float
) -> dict[str, Any]:
    return {
        **found.to_plain(),
        "config": config,
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped],
        "model": model,
        "seconds": seconds,
    }


def _refuse_few(pictures: int, save: bool) -> None:
    """So few pictures decide nothing, and what they give is left to chance: it is not saved unasked.

    Raises:
        InputError: fewer than ``MINIMUM_PICTURES``, and a config is to be saved.
    """
    from trimkit.calibration import MINIMUM_PICTURES

    if save and pictures < MINIMUM_PICTURES:
        raise InputError(
            f"{pictures} pictures decide nothing, neither sign nor budget: give {MINIMUM_PICTURES} or more, or --force to save "
            "what comes out all the same; without -o it is only printed"
        )


def _print(found: Calibration) -> None:
    """Tables of all that was measured, what was decided, and the choice."""
    said = found.to_plain()
    settings = said["settings"]
    print(
        f"{settings['pictures']} pictures, {settings['pairs']} questions ({settings['questions']}); "
        "divergence in nats (0 to 0.69), answers that stay the same"
    )
    for title, key in (("sign, normalize", "candidates"), ("temperature", "temperatures"), ("budget", "curve")):
        if said[key]:
            print(title)
        for arm in said[key]:
            _print_arm(arm)
    for name, each in said["decisions"].items():
        low, high = each["ci95"]
        verdict = "decided" if each["decided"] else "not decided"
        print(f"{name.replace('_', ' ')}: {each['difference']:+.4f} nats ({low:+.4f} to {high:+.4f}), {verdict}")
    for note in said["notes"]:
        print(f"note      {note}")
    print("chosen")
    _print_arm(said["chosen"])


def _print_arm(arm: dict[str, Any]) -> None:
    profile = arm["profile"]
    read = ""
    if profile is not None:
        measure = "cosine" if profile["normalize"] else "dot"
        read = f"{profile['sign']:+d} {measure} T={profile['temperature']:g}"
    budget = arm["budget"] if isinstance(arm["budget"], (str, int)) else f"{arm['budget']:.3g}"
    low, high = arm["agreement_ci95"]
    print(
        f"  {arm['method']:<10} {read:<20} {budget:<10} {arm['image_tokens_kept']:6.1f} tokens ({arm['share']:5.1%})  "
        f"divergence {arm['divergence']:.4f}  same {arm['agreement']:6.1%} ({low:.0%} to {high:.0%})"
    )
