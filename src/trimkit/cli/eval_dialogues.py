"""``trimkit eval dialogues``: accuracy in conversations about held-out scenes of the demo world."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trimkit.cli import _common as common
from trimkit.cli import _evaluation as evaluation

NAME = "eval dialogues"


def command(
    seed: evaluation.SeedOption = 1,
    n: Annotated[int, typer.Option("--n", help="Number of dialogues, one per scene.")] = 300,
    method: common.MethodsOption = None,
    config: common.ConfigOption = None,
    turns: Annotated[
        str,
        typer.Option(
            "--turns", help="What later turns see: 'refresh', 'first', 'union', or several with commas between."
        ),
    ] = "refresh",
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    positions: evaluation.PositionsOption = "auto",
    model: common.ModelOption = "demo",
    scorer: common.ScorerOption = None,
    batch_size: evaluation.BatchOption = 16,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    output: evaluation.OutputOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Ask three turns about each held-out scene, every turn about other objects, and grade the replies.

    You get accuracy by turn and by question type, and the image tokens kept. --json prints one object for one method and
    policy, a list for several.
    """
    from trimkit.eval import dialogues
    from trimkit.eval.tally import check_arguments

    methods = common.pick_methods(method, budget, settings, config, model)
    policies = [policy.strip() for policy in turns.split(",")]
    check_arguments(seed, n, batch_size, positions, policies)
    target = common.check_output(output, config, model=model, scorer=scorer)
    arms: list[dict[str, Any]] = [
        {"method": each, "turns": policy, "seed": seed, "batch_size": batch_size, "positions": positions}
        for each in methods
        for policy in policies
    ]
    evaluation.measure(
        dialogues.evaluate,
        arms,
        n=n,
        model=model,
        scorer=scorer,
        device=device,
        dtype=dtype,
        target=target,
        as_json=as_json,
        show=_print,
    )


def _print(result: dict[str, Any]) -> None:
    print(f"turns {result['turns']}")
    evaluation.print_shares(result)
    rows = zip(result["accuracy_by_turn"], result["ci95_by_turn"], result["image_tokens_kept_by_turn"], strict=True)
    for turn, (share, (low, high), kept) in enumerate(rows, start=1):
        print(f"  turn {turn:<11} {share:6.1%}  ({low:.1%} to {high:.1%}), {kept:.1f} image tokens")
