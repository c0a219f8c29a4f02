"""``trimkit eval scenes``: accuracy on held-out scenes of the demo world."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trimkit.cli import _common as common

NAME = "eval scenes"


def command(
    seed: Annotated[
        int, typer.Option("--seed", help="Which scenes: any number from 0 on; training saw none of them.")
    ] = 1,
    n: Annotated[int, typer.Option("--n", help="How many questions, one a scene.")] = 1000,
    method: Annotated[
        str, typer.Option("--method", help="A reduction method, or several with commas between.")
    ] = "trim",
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    model: common.ModelOption = "demo",
    batch_size: Annotated[int, typer.Option("--batch-size", help="Questions per generate call.")] = 16,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    output: Annotated[str | None, typer.Option("--output", "-o", help="Also write the JSON to this file.")] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Ask about held-out scenes, and grade the replies.

    Accuracy by question type with 95 % intervals, and the image tokens kept. One JSON object for one method, a list for
    several.
    """
    from trimkit.eval import scenes

    methods = [common.pick_method(name.strip(), budget, settings) for name in method.split(",")]
    scenes.check_arguments(seed, n, batch_size)
    target = None if output is None else common.check_json_output(output)
    with common.quiet():
        loaded, processor = common.load(model, device, dtype)
        results = []
        for chosen in methods:
            with common.progress(f"{chosen.name} on scenes", n) as advance:
                arguments: dict[str, Any] = {"seed": seed, "n": n, "batch_size": batch_size, "advance": advance}
                results.append({**scenes.evaluate(loaded, processor, method=chosen, **arguments), "model": model})
    whole = results[0] if len(results) == 1 else results
    if target is not None:
        common.write_json(target, whole)
    if as_json:
        common.print_json(whole)
        return
    for result in results:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    kept, full = result["image_tokens_kept_mean"], result["image_tokens_full"]
    print(
        f"{result['method']}, budget {result['budget']}: {kept:.1f} of {full} image tokens a question, n = {result['n']}"
    )
    rows = [("all", result["n"], result["accuracy"], result["ci95"])]
    for kind, share in result["accuracy_by_type"].items():
        rows.append((kind, result["n_by_type"][kind], share, result["ci95_by_type"][kind]))
    for kind, count, share, (low, high) in rows:
        print(f"  {kind:<16} {share:6.1%}  ({low:.1%} to {high:.1%}, n = {count})")
