"""What the ``trimkit eval`` commands share: their options, and running several methods one after another."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimkit.cli import _common as common
from trimkit.cli._progress import progress

if TYPE_CHECKING:
    from trimkit.eval.journal import Journal

__all__ = [
    "BatchOption",
    "OutputOption",
    "PositionsOption",
    "ResumeOption",
    "SeedOption",
    "journal",
    "measure",
    "print_shares",
    "tell_left",
]

SeedOption = Annotated[int, typer.Option("--seed", help="Which scenes: any number from 0; training saw none of them.")]
BatchOption = Annotated[int, typer.Option("--batch-size", help="Prompts per generate call.")]
PositionsOption = Annotated[
    str,
    typer.Option("--positions", help="'contiguous' or 'original' numbering of the tokens kept.", show_default="auto"),
]
ResumeOption = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="FILE",
        help="Keep finished rows in this file; the same file and settings continue a stopped run.",
    ),
]
OutputOption = Annotated[str | None, typer.Option("--output", "-o", help="Also write the JSON to this file.")]


def tell_left(call: dict[str, Any]) -> None:
    """Say what of a config this command leaves out."""
    if call:
        print(f"trimkit: this command reduces without the config's {' and '.join(call)}", file=sys.stderr)


@contextlib.contextmanager
def journal(path: str | None, **config: Any) -> Iterator[Journal | None]:
    """The journal of a run with these settings, versions included; None where no file is given.

    Raises:
        ConfigError, InputError: as ``Journal`` does.
    """
    if path is None:
        yield None
        return
    from trimkit.eval.journal import Journal
    from trimkit.io.provenance import versions

    with Journal(path, {**config, "versions": versions()}) as opened:
        yield opened


def measure(
    evaluate: Callable[..., dict[str, Any]],
    arms: list[dict[str, Any]],
    *,
    n: int,
    model: str,
    scorer: str | None,
    device: str,
    dtype: str,
    target: Path | None,
    as_json: bool,
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Run every arm on one loaded model; write and print one JSON object (a list for several arms), or ``show`` each."""
    with common.quiet():
        loaded, processor = common.load(model, device, dtype)
        found = _scorer(loaded, scorer, [arm["method"] for arm in arms])
        results = []
        for arm in arms:
            with progress(f"{arm['method'].name}", n) as advance:
                results.append(
                    {**evaluate(loaded, processor, n=n, scorer=found, advance=advance, **arm), "model": model}
                )
    whole = results[0] if len(results) == 1 else results
    if target is not None:
        common.write_json(target, whole)
    if as_json:
        common.print_json(whole)
        return
    for result in results:
        show(result)


def _scorer(model: Any, scorer: str | None, methods: list[Any]) -> Any:
    """One for all methods, where one was named and any of them reads the question."""
    from trimkit.pipeline.model_store import scorer_of

    if scorer is None or not any(method.needs_relevance for method in methods):
        return None
    return scorer_of(model, scorer)


def print_shares(result: dict[str, Any]) -> None:
    """Tokens, then accuracy of all and by type."""
    kept, full = result["image_tokens_kept_mean"], result["image_tokens_full"]
    print(
        f"{result['method']}, budget {result['budget']}: {kept:.1f} of {full} image tokens a question, n = {result['n']}"
    )
    rows = [("all", result["n"], result["accuracy"], result["ci95"])]
    for kind, share in result["accuracy_by_type"].items():
        rows.append((kind, result["n_by_type"][kind], share, result["ci95_by_type"][kind]))
    for kind, count, share, (low, high) in rows:
        print(f"  {kind:<16} {share:6.1%}  ({low:.1%} to {high:.1%}, n = {count})")
    for row in result.get("skipped", []):
        print(f"  question {row['id']} is skipped: {row['reason']}")
