"""``trimkit eval scenes``: accuracy on held-out scenes of the demo world."""

from __future__ import annotations

from typing import Annotated

import typer

from trimkit.cli import _common as common
from trimkit.cli import _evaluation as evaluation

NAME = "eval scenes"


def command(
    seed: evaluation.SeedOption = 1,
    n: Annotated[int, typer.Option("--n", help="Number of questions, one per scene.")] = 1000,
    method: common.MethodsOption = None,
    config: common.ConfigOption = None,
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    positions: evaluation.PositionsOption = "auto",
    tower_keep: Annotated[
        float | None,
        typer.Option(
            "--tower-keep", help="Share of the patches that go through the whole vision tower.", show_default="all"
        ),
    ] = None,
    tower_layer: common.TowerLayerOption = None,
    model: common.ModelOption = "demo",
    scorer: common.ScorerOption = None,
    batch_size: evaluation.BatchOption = 16,
    resume: evaluation.ResumeOption = None,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    output: evaluation.OutputOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Ask about held-out scenes, and grade the replies.

    You get accuracy by question type with 95% intervals, and the image tokens kept. --json prints one object for one method, a
    list for several.
    """
    from trimkit.eval import scenes
    from trimkit.eval.journal import check_journal
    from trimkit.eval.tally import check_arguments
    from trimkit.pipeline.tower_pruning import refuse_unranked

    methods = common.pick_methods(method, budget, settings, config, model)
    check_arguments(seed, n, batch_size, positions)
    for each in methods if tower_keep is not None else []:
        refuse_unranked(each)
    tower = {"tower_keep": tower_keep, "tower_layer": tower_layer}
    shared = {"seed": seed, "batch_size": batch_size, "positions": positions, **tower}
    target = common.check_output(output, config, resume, model=model, scorer=scorer)
    check_journal(resume, [config, *common.model_files(model)])
    named = {} if scorer is None else {"scorer": scorer}
    with evaluation.journal(resume, model=model, n=n, device=device, dtype=dtype, **named, **shared) as journal:
        evaluation.measure(
            scenes.evaluate,
            [{"method": each, "journal": journal, **shared} for each in methods],
            n=n,
            model=model,
            scorer=scorer,
            device=device,
            dtype=dtype,
            target=target,
            as_json=as_json,
            show=evaluation.print_shares,
        )
