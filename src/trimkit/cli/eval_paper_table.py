"""``trimkit eval paper-table``: the paper's twelve data sets for a list of methods, through lmms-eval."""

from __future__ import annotations

import contextlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from trimkit.cli import _common as common
from trimkit.cli import _evaluation as evaluation
from trimkit.errors import InputError, MissingDependencyError, ModelError

NAME = "eval paper-table"


def command(
    model: Annotated[
        str, typer.Option("--model", help="'demo', a directory, or a hub id OWNER/NAME.")
    ] = "llava-hf/llava-1.5-7b-hf",
    method: common.MethodsOption = None,
    config: common.ConfigOption = None,
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    positions: evaluation.PositionsOption = "auto",
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            help="Tasks of lmms-eval, with commas between; TASK:METRIC for another metric.",
            show_default="the twelve",
        ),
    ] = None,
    include_path: Annotated[
        str | None, typer.Option("--include-path", help="A directory with more task files of lmms-eval.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Rows per data set.", show_default="all")] = None,
    resume: evaluation.ResumeOption = None,
    batch_size: evaluation.BatchOption = 1,
    scorer: common.ScorerOption = None,
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    output: evaluation.OutputOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Score methods on the paper's data sets, and compare each with the full model.

    It needs lmms-eval (pip install "trimkit[eval]"), which loads the data from the hub. It always runs the full model, too.
    Without an API key, it leaves out what a GPT grades.
    """
    if find_spec("lmms_eval") is None:
        raise MissingDependencyError("lmms-eval is not installed: pip install 'trimkit[eval]'")
    from trimkit.eval import paper_table
    from trimkit.eval.journal import check_journal
    from trimkit.eval.tally import check_arguments

    methods = common.pick_methods(method, budget, settings, config, model)
    columns = paper_table.columns_of(None if tasks is None else tasks.split(","))
    check_arguments(0, 1, batch_size, positions)
    if include_path is not None and not Path(include_path).is_dir():
        raise InputError(f"--include-path {include_path!r} is not a directory: give one with task files")
    target = common.check_output(output, config, resume, *_task_files(include_path), model=model, scorer=scorer)
    check_journal(resume, [config, *common.model_files(model)])
    with (
        common.quiet(),
        contextlib.redirect_stdout(sys.stderr),
    ):  # what lmms-eval logs and prints is no part of the result
        from trimkit.eval.lmms import table as lmms_table

        result = lmms_table.paper_table(
            model,
            methods,
            columns,
            limit=limit,
            include_path=include_path,
            resume=resume,
            batch_size=batch_size,
            scorer=scorer,
            device=device,
            dtype=dtype,
            positions=positions,
            say=lambda line: print(line, file=sys.stderr),
        )
    _refuse_empty(result)
    if target is not None:
        common.write_json(target, result)
    if as_json:
        common.print_json(result)
        return
    show(result)


def _refuse_empty(result: dict[str, Any]) -> None:
    """A table without a score is no result.

    Raises:
        ModelError: no task could be run.
    """
    if result["columns"]:
        return
    first, *others = result["not_run"]
    more = f", nor can {len(others)} more" if others else ""
    raise ModelError(
        f"the table is empty: {first['task']} cannot be run ({first['reason']}){more}; name others by --tasks"
    )


def _task_files(include_path: str | None) -> list[Path]:
    return [] if include_path is None else [path for path in Path(include_path).rglob("*") if path.is_file()]


def show(result: dict[str, Any]) -> None:
    """A row a method: tokens kept, scores, and below each the share of the full model's."""
    titles = [column["title"] for column in result["columns"]]
    print("  ".join([f"{'method':<16}", f"{'tokens':>7}", *(f"{title:>10}" for title in titles), f"{'mean':>7}"]))
    for arm in result["arms"]:
        kept = arm["image_tokens_kept"]
        scores = [f"{score:>10.2f}" for score in arm["scores"].values()]
        print("  ".join([f"{arm['method']:<16}", f"{'-' if kept is None else format(kept, '.1f'):>7}", *scores]))
        shares = [arm["relative"].get(column["task"]) for column in result["columns"]]
        shown = [f"{'-' if share is None else format(share, '.1%'):>10}" for share in shares]
        mean = arm["relative_mean"]
        print("  ".join([" " * 16, " " * 7, *shown, f"{'-' if mean is None else format(mean, '.1%'):>7}"]))
    for arm in result["arms"]:
        for row in arm["skipped"]:
            print(f"{arm['method']}: row {row['id']} of {row['task']} is skipped: {row['reason']}")
    for each in result["not_run"]:
        print(f"{each['task']} is left out: {each['reason']}")
