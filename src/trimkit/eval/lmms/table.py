"""What ``trimkit eval paper-table`` runs: lmms-eval's evaluator on one loaded model, a method and a task at a time."""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from trimkit.errors import ModelError, TrimkitError
from trimkit.eval.identity import files_identity, weights_identity
from trimkit.eval.journal import Journal
from trimkit.eval.lmms.plugin import Trimkit, run_settings
from trimkit.eval.paper_table import Column, judged_without_key, run
from trimkit.loading import load_model
from trimkit.methods import Method, get_method

__all__ = ["TableArm", "paper_table"]


class TableArm:
    """One method, scored by lmms-eval.

    Args:
        model: the plugin's model.
        manager: where tasks are looked up.
        limit: rows a task; None for all.
    """

    def __init__(self, model: Trimkit, manager: TaskManager, limit: int | None) -> None:
        self.key: str = model.arm
        self.about: dict[str, Any] = model.about
        self._model, self._manager, self._limit = model, manager, limit

    def score(self, task: str) -> dict[str, Any]:
        """Run a task, or what is left of it.

        Raises:
            ModelError: there is no such task, its data cannot be had, or it fails.
        """
        model = self._model
        model.skipped, model.tokens = [], {}
        try:
            metrics = self._metrics(task)
        except TrimkitError:
            raise
        except Exception as error:  # tasks, data sets and metrics are lmms-eval's and fail in ways of their own
            cause = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelError(f"lmms-eval cannot run {task} ({cause})") from error
        full, kept, rows = (sum(counts[place] for counts in model.tokens.values()) for place in range(3))
        return {"metrics": metrics, "rows": rows, "tokens_full": full, "tokens_kept": kept, "skipped": model.skipped}

    def _metrics(self, task: str) -> dict[str, float]:
        """Every metric that is a number, in the task's order."""
        with tempfile.TemporaryDirectory() as files:
            # Some metrics write files; with media, every picture would be decoded again to be scored.
            arguments = argparse.Namespace(output_path=files, process_with_media=False)
            outcome = simple_evaluate(
                model=self._model,
                tasks=[task],
                batch_size=self._model.batch_size,
                limit=self._limit,
                bootstrap_iters=0,
                log_samples=False,
                task_manager=self._manager,
                cli_args=arguments,
            )
        found: dict[str, float] = {}
        for name, value in outcome["results"].get(task, {}).items():
            metric = name.partition(",")[0]
            if isinstance(value, int | float) and math.isfinite(value) and "stderr" not in metric:
                found.setdefault(metric, float(value))
        return found


def paper_table(
    pretrained: str,
    methods: Sequence[Method],
    columns: Sequence[Column],
    *,
    limit: int | None = None,
    include_path: str | None = None,
    resume: str | None = None,
    batch_size: int = 1,
    scorer: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    positions: Any = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Load a model once, and score the full model and every method on every data set.

    Args:
        pretrained, device, dtype: as ``trimkit.loading.load_model`` takes them.
        methods: beside ``none``, which comes first.
        columns, limit, say: as ``trimkit.eval.paper_table.run`` takes them.
        include_path: a directory with more task files.
        resume: the journal's file.
        batch_size: rows per ``generate`` call.
        scorer, positions: as ``trimkit.reduce`` takes them.

    Returns:
        What ``trimkit.eval.paper_table.run`` returns, and what was run.
    """
    loaded = load_model(pretrained, device=device, dtype=dtype)
    config = {
        "model": pretrained,
        "batch_size": batch_size,
        "positions": positions,
        "scorer": scorer,
        **run_settings(loaded[0]),
    }
    manager = TaskManager("ERROR", include_path=include_path, model_name="trimkit")
    with contextlib.ExitStack() as stack:
        journal = None
        if resume is not None:  # only then is every weight read for its digest
            settings = {**config, "weights": weights_identity(loaded[0]), "tasks": files_identity(include_path)}
            journal = stack.enter_context(Journal(resume, settings))
        arms = [
            TableArm(
                Trimkit(
                    pretrained,
                    method=method,
                    batch_size=batch_size,
                    positions=positions if method.name != "none" else "auto",
                    scorer=scorer if method.needs_relevance else None,
                    journal=journal,
                    loaded=loaded,
                ),
                manager,
                limit,
            )
            for method in [get_method("none"), *(method for method in methods if method.name != "none")]
        ]
        left_out = judged_without_key(columns)
        result = run(arms, columns, limit=limit, journal=journal, left_out=left_out, say=say)
    return {**result, "limit": limit, **config}
