"""``trimkit leaderboard``: what the methods keep, from the results that come with the package."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trimkit.cli import _common as common

NAME = "leaderboard"


def command(
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            help="accuracy, relative, filtered, tokens, choosing, method, or a type of question such as reading.",
        ),
    ] = "accuracy",
    method: Annotated[
        str | None, typer.Option("--method", help="Only these methods, with commas between.", show_default="all")
    ] = None,
    budget: Annotated[
        int | None, typer.Option("--budget", help="Only this number of image tokens.", show_default="all")
    ] = None,
    vllm: Annotated[bool, typer.Option("--vllm", help="Only methods that work in vLLM.")] = False,
    question: Annotated[
        bool | None,
        typer.Option(
            "--reads-question/--ignores-question",
            help="Only methods that read the question, or only those that do not.",
            show_default="both",
        ),
    ] = None,
    top: Annotated[int | None, typer.Option("--top", min=1, help="Only the first rows.", show_default="all")] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Show what each method keeps of the demo model's accuracy, at each budget, and what choosing costs.

    The numbers come with the package. They rank methods on the small demo model and do not predict yours.
    """
    from trimkit.eval import leaderboard

    board = leaderboard.load_leaderboard()
    types = leaderboard.question_types(board)
    names = None if method is None else [name.strip() for name in method.split(",")]
    picked = leaderboard.pick(board["entries"], methods=names, budget=budget, vllm=vllm, reads_question=question)
    entries = leaderboard.rank(picked, sort, types)[:top]
    if as_json:
        common.print_json({**board, "entries": entries})
        return
    _print(board, entries, types)


def _print(board: dict[str, Any], entries: list[dict[str, Any]], types: list[str]) -> None:
    suite = board["suite"]
    print(f"{suite['n']} questions on the demo model, seed {suite['seed']}; choosing in ms a picture on one CPU core")
    heads = " ".join(f"{kind[:9]:>9}" for kind in types)
    print(
        f"  {'method':<16} {'tokens':>6} {'all':>6} {'of full':>7} {'filtered':>8} {'choosing':>8} {'vLLM':>4} {heads}"
    )
    for entry in [board["full"], *entries]:
        cells = " ".join(f"{entry['by_type'][kind]:9.1%}" for kind in types)
        filtered = "" if entry["filtered"] is None else f"{entry['filtered']['accuracy']:.1%}"
        choosing = "" if entry["choosing_ms"] is None else f"{entry['choosing_ms']:.1f}"
        mark = "*" if entry["note"] else ""
        print(
            f"  {entry['method'] + mark:<16} {entry['image_tokens']:6.0f} {entry['accuracy']:6.1%} "
            f"{entry['relative']:7.1%} {filtered:>8} {choosing:>8} {'yes' if entry['vllm'] else 'no':>4} {cells}"
        )
    for note in dict.fromkeys(entry["note"] for entry in entries if entry["note"]):
        print(f"  * {note}")
