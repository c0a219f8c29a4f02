"""``trimkit fit``: a scorer for text relevance, distilled from your model on your pictures, without labels."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimkit.cli import _common as common
from trimkit.cli._progress import progress
from trimkit.cli._skipped import print_skipped
from trimkit.io.numbers import MAX_BATCH, MAX_QUESTIONS, MAX_SEED

if TYPE_CHECKING:
    from trimkit.fitting import Fitting

NAME = "fit"


def command(
    images: Annotated[str, typer.Option("--images", help="A directory of pictures as the model will see them.")],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The scorer's folder, new.", show_default="nothing is written"),
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option(
            "--questions",
            help=".jsonl or .csv with image and question, or text with one question a line.",
            show_default="the model asks them itself",
        ),
    ] = None,
    model: common.ModelOption = "demo",
    scorer: common.ScorerOption = None,
    work: Annotated[
        str | None,
        typer.Option(
            "--work", help="Folder of features and states; a fit goes on from it.", show_default="OUTPUT.work"
        ),
    ] = None,
    max_images: Annotated[
        int, typer.Option("--max-images", min=1, max=MAX_QUESTIONS, help="Pictures used, drawn by the seed.")
    ] = 600,
    per_image: Annotated[
        int, typer.Option("--per-image", min=1, max=MAX_QUESTIONS, help="Questions of each picture, at most.")
    ] = 3,
    steps: Annotated[
        int,
        typer.Option(
            "--steps",
            min=1,
            max=10**6,
            help="Training steps, at most; ten times as many for 'attention', which are quick.",
        ),
    ] = 600,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, max=MAX_BATCH, help="Pairs a step.")] = 16,
    target: Annotated[
        str, typer.Option("--target", help="'attention', 'answer', or both with a comma between: the better is kept.")
    ] = "attention,answer",
    max_new_tokens: common.MaxNewTokensOption = 8,
    cache_gb: Annotated[
        float, typer.Option("--cache-gb", min=0.001, help="What features and answers may take on disk, in GB.")
    ] = 20.0,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MAX_SEED, help="Of the draw of pictures, the split and the training.")
    ] = 0,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Write the scorer although it is not shown to be better.")
    ] = False,
    as_json: common.JsonOption = False,
) -> None:
    """Fit a scorer that reads the question to your model.

    Needs your pictures, better with your questions, and no labels: the model answers with all image tokens, and a network of
    at most 2% of the vision tower's size learns which tokens the answers need. It is then compared with CLIP's relevance on
    pictures held out, and written where it is better with 95% confidence. Use the folder wherever a --scorer is named.

    An interrupted fit goes on with the same command.
    """
    from trimkit.errors import ConfigError
    from trimkit.fitting import FitSettings

    if output is None and work is None:
        raise ConfigError("a fit needs a folder for its work: give -o FOLDER, or --work FOLDER to write no scorer")
    settings = FitSettings(
        per_picture=per_image,
        max_new_tokens=max_new_tokens,
        steps=steps,
        batch=batch_size,
        every=max(1, min(100, steps // 6)),
        targets=tuple(each.strip() for each in target.split(",")),
        cache_gb=cache_gb,
        seed=seed,
    )
    place = work if work is not None else f"{str(output).rstrip('/')}.work"
    given = (images, questions, max_images)
    how = {"output": output, "work": place, "settings": settings, "scorer": scorer, "name": model, "force": force}
    _fit(given, how, (model, device, dtype), as_json=as_json)


def _fit(
    given: tuple[str, str | None, int], how: dict[str, Any], where: tuple[str, str, str], *, as_json: bool
) -> None:
    """Read the pictures, fit, and print what came out."""
    from trimkit.calibration import read_sources
    from trimkit.fitting import fit
    from trimkit.io.directories import new_directory
    from trimkit.scorers.fitted_pictures import LONGEST_SIDE

    images, questions, limit = given
    if how["output"] is not None:
        new_directory(how["output"], "a scorer")
    seed = how["settings"].seed
    sources = read_sources(images, questions, limit=limit, seed=seed, longest=LONGEST_SIDE)
    with common.quiet():
        loaded, processor = common.load(*where)
        found = fit(
            loaded,
            processor,
            sources.pictures,
            sources.questions,
            phase=progress,
            announce=lambda expected: print(f"trimkit: fit: {expected}", file=sys.stderr, flush=True),
            **how,
        )
    if as_json:
        common.print_json({**found.told, "written": None if found.written is None else str(found.written)})
        return
    print_skipped(sources.skipped)
    _print(found, force=how["force"])


def _print(found: Fitting, *, force: bool) -> None:
    """The comparison, and whether the scorer is used."""
    told, guard = found.told, found.told["guard"]
    print(
        f"{told['data']['pictures']} pictures, {told['data']['pairs']} questions ({told['data']['questions']}); target "
        f"{told['target']}, {told['parameters']:,} parameters ({told['parameters_share']:.2%} of the vision tower's)"
    )
    print("tokens     divergence  without  same answers  without")
    for key, fitted in guard["divergence_by_share"]["fitted"].items():
        same = guard["agreement_by_share"][key]
        before = guard["divergence_by_share"]["baseline"][key]
        print(f"  {float(key):5.1%}  {fitted:10.4f}  {before:7.4f}  {same['fitted']:12.1%}  {same['baseline']:7.1%}")
    low, high = guard["ci95"]
    print(
        f"difference {guard['difference']:+.4f} nats ({low:+.4f} to {high:+.4f}) on {guard['pictures']} pictures held out"
    )
    if guard["better"]:
        print(f"better than {guard['against']} with 95% confidence")
    else:
        print(f"not better than {guard['against']} with 95% confidence: that stays in use")
    if found.written is not None:
        print(f"written    {found.written}")
    else:
        print("written    nothing" + ("" if guard["better"] or force else "; --force writes it all the same"))
