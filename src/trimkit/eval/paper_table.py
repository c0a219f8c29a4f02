"""The paper's table: several methods on the twelve data sets through lmms-eval, each beside the full model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trimkit.errors import ConfigError, ModelError, TrimkitError
from trimkit.eval.journal import Journal

__all__ = ["COLUMNS", "Arm", "Column", "columns_of", "judged_without_key", "run"]


@dataclass(frozen=True)
class Column:
    """A data set: its heading, lmms-eval's name of the task, which of its metrics is shown, and by what that is multiplied.

    ``judged``: a GPT grades the replies, which takes a key.
    """

    title: str
    task: str
    metric: str | None = None
    scale: float = 1.0
    judged: bool = False


COLUMNS = (
    Column("VQAv2", "vqav2_val", "exact_match", 100),
    Column("GQA", "gqa", "exact_match", 100),
    Column("VizWiz", "vizwiz_vqa_val", "exact_match", 100),
    Column("SQA-IMG", "scienceqa_img", "exact_match", 100),
    Column("TextVQA", "textvqa_val", "exact_match", 100),
    Column("POPE", "pope", "pope_f1_score", 100),
    Column("MME", "mme", "mme_perception_score"),
    Column("MMBench", "mmbench_en_dev", "gpt_eval_score"),
    Column("MMBench-CN", "mmbench_cn_dev", "gpt_eval_score"),
    Column("SEED", "seedbench", "seed_image", 100),
    Column("LLaVA-W", "llava_in_the_wild", "gpt_eval_llava_all", judged=True),
    Column("MM-Vet", "mmvet", "gpt_eval_score", judged=True),
)
_KEYS = {"openai": "OPENAI_API_KEY", "azure": "AZURE_API_KEY"}


class Arm(Protocol):
    """One method on one model; ``trimkit.eval.lmms.table.TableArm`` is the real one.

    Attributes:
        key: tells methods with their options apart.
        about: what the result says of the arm: method, budget, options.
    """

    @property
    def key(self) -> str: ...

    @property
    def about(self) -> Mapping[str, Any]: ...

    def score(self, task: str) -> dict[str, Any]:
        """``metrics`` (name to number, the task's first one first), ``rows``, ``tokens_full``, ``tokens_kept``, ``skipped``."""


def columns_of(names: Sequence[str] | None) -> list[Column]:
    """The twelve, or the tasks that are named: ``TASK``, or ``TASK:METRIC`` for another metric than the usual.

    Raises:
        ConfigError: a name is empty or comes twice.
    """
    if names is None:
        return list(COLUMNS)
    known = {column.task: column for column in COLUMNS}
    found: dict[str, Column] = {}
    for name in names:
        task, _, metric = name.strip().partition(":")
        if not task or task in found:
            raise ConfigError(f"--tasks names {task!r} {'twice' if task else 'nothing'}: give every task once")
        usual = known.get(task, Column(task, task))
        found[task] = Column(task, task, metric, 1.0, usual.judged) if metric else usual
    return list(found.values())


def judged_without_key(columns: Sequence[Column], environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Why a task is left out, for those that a GPT grades where no key is set."""
    given = os.environ if environment is None else environment
    kind = given.get("API_TYPE", "openai")
    key = _KEYS.get(kind, "OPENAI_API_KEY")
    if given.get(key):
        return {}
    return {each.task: f"a GPT grades it: set {key} to run it" for each in columns if each.judged}


def run(
    arms: Sequence[Arm],
    columns: Sequence[Column],
    *,
    limit: int | None = None,
    journal: Journal | None = None,
    left_out: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Score every arm on every data set.

    Args:
        arms: the first is the full model, which the others are compared with.
        columns: the data sets.
        limit: rows a data set; None for all.
        journal: what is finished is taken from there, and goes there.
        left_out: tasks that are not to be run, with the reason.
        say: called with a line for every score and whatever is left out.

    Returns:
        ``columns`` (``title``, ``task``), ``arms`` (``about``, with ``scores`` by task, ``relative`` to the first arm by task,
        their mean ``relative_mean``, ``image_tokens_full`` and ``image_tokens_kept`` a row, ``rows``, ``skipped``) and
        ``not_run``, a list of ``{"task", "reason"}``. A task that fails for one arm is in there, too, and in no mean.
    """
    not_run = dict(left_out or {})
    for task, reason in not_run.items():
        say(f"{task} is skipped: {reason}")
    found: list[dict[str, dict[str, Any]]] = [{} for _ in arms]
    for column in columns:
        for arm, scores in zip(arms, found, strict=True):
            if column.task in not_run:
                break
            try:
                scores[column.task] = _scored(arm, column, limit, journal)
                say(f"{arm.key}, {column.task}: {_value(column, scores[column.task]):.2f}")
            except (TrimkitError, OSError) as error:
                not_run[column.task] = " ".join(str(error).split())
                say(f"{column.task} is left out: {not_run[column.task]}")
    scored = [column for column in columns if column.task not in not_run]
    full = {column.task: _value(column, found[0][column.task]) for column in scored}
    return {
        "columns": [{"title": column.title, "task": column.task} for column in scored],
        "arms": [_summary(arm, scores, scored, full) for arm, scores in zip(arms, found, strict=True)],
        "not_run": [{"task": task, "reason": reason} for task, reason in not_run.items()],
    }


def _scored(arm: Arm, column: Column, limit: int | None, journal: Journal | None) -> dict[str, Any]:
    """A task's outcome, from the journal where it is there."""
    place = f"{arm.key}/{column.task}/scores", "all" if limit is None else str(limit)
    held = None if journal is None else journal.get(*place)
    if held is None:
        held = arm.score(column.task)
        if journal is not None:
            journal.add(place[0], {place[1]: held})
    _refuse_empty(held)
    return held


def _refuse_empty(outcome: Mapping[str, Any]) -> None:
    """A score of rows that were all skipped says nothing.

    Raises:
        ModelError: no row of the task was run.
    """
    rows, skipped = outcome["rows"], outcome["skipped"]
    if rows <= len(skipped):
        raise ModelError(f"none of its {rows} rows could be run" + (f": {skipped[0]['reason']}" if skipped else ""))


def _value(column: Column, outcome: Mapping[str, Any]) -> float:
    """The number that the table shows.

    Raises:
        ConfigError: the task has no such metric.
    """
    metrics = outcome["metrics"]
    name = column.metric or next(iter(metrics), "")
    if name not in metrics:
        known = ", ".join(metrics) or "none that is a number"
        raise ConfigError(f"task {column.task} has no metric {name!r}: it has {known}")
    return float(metrics[name]) * column.scale


def _summary(
    arm: Arm, scores: Mapping[str, dict[str, Any]], columns: Sequence[Column], full: Mapping[str, float]
) -> dict[str, Any]:
    values = {column.task: _value(column, scores[column.task]) for column in columns}
    relative = {task: value / full[task] for task, value in values.items() if full[task]}
    rows = sum(scores[task]["rows"] for task in values)
    asked = rows - sum(len(scores[task]["skipped"]) for task in values)
    return {
        **arm.about,
        "scores": values,
        "relative": relative,
        "relative_mean": sum(relative.values()) / len(relative) if relative else None,
        "metrics": {task: scores[task]["metrics"] for task in values},
        "rows": rows,
        "image_tokens_full": sum(scores[task]["tokens_full"] for task in values) / asked if asked else None,
        "image_tokens_kept": sum(scores[task]["tokens_kept"] for task in values) / asked if asked else None,
        "skipped": [row for task in values for row in scores[task]["skipped"]],
    }
