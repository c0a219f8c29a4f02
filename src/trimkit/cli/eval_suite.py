"""``trimkit eval suite``: all methods and budgets on the same held-out scenes of the demo world, in one pass."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from trimkit.cli import _common as common
from trimkit.cli import _evaluation as evaluation
from trimkit.cli._progress import progress
from trimkit.errors import ConfigError

NAME = "eval suite"

_OURS = "focus"
_OWN_SIGN = {"trim-released": ["sign=auto"]}
"""What tells nothing of a method on a tower of the other sign, and the setting that takes the tower's."""


def command(
    seed: evaluation.SeedOption = 1,
    n: Annotated[int, typer.Option("--n", help="Number of questions, one per scene.")] = 2004,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="Reduction methods with commas between, each with options of its own behind it ('trim-released sign=auto'); "
            "'all' for every registered one.",
        ),
    ] = "all",
    budget: Annotated[
        str, typer.Option("--budget", help="Budgets with commas between; 'default' is each method's own.")
    ] = "144,64,32,16,8,default",
    config: common.ConfigOption = None,
    fallback: common.FallbackOption = None,
    threshold: common.ThresholdOption = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            metavar="'METHOD OPTION=V1|V2 ...'",
            help="Instead of --method and --budget: every combination of these, the reference values first; repeatable.",
        ),
    ] = None,
    types: Annotated[
        str,
        typer.Option(
            "--types",
            help="Question types, which take turns: 'basic', 'hard' (dense reading, two things, global, grounding), 'all', or "
            "names with commas between.",
        ),
    ] = "basic",
    shift: Annotated[
        str,
        typer.Option(
            "--shift", help="Alter the pictures: none, greyscale, thermal, overhead, wide, low-contrast, blur or noise."
        ),
    ] = "none",
    query: Annotated[
        str | None,
        typer.Option(
            "--query",
            help="Choose patches by this text, not by each question: 'Describe the picture.' names nothing that is asked.",
            show_default="the question",
        ),
    ] = None,
    ours: Annotated[
        str, typer.Option("--ours", help="The method to compare with every other at the same budget.")
    ] = _OURS,
    journal: Annotated[
        str | None, typer.Option("--journal", help="File of finished answers; an interrupted run continues from it.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes that share the work, one thread each.")] = 1,
    positions: evaluation.PositionsOption = "auto",
    padding: Annotated[
        str,
        typer.Option("--padding", help="'skip' never chooses a patch that sees only the padding of a square."),
    ] = "keep",
    model: common.ModelOption = "demo",
    scorer: common.ScorerOption = None,
    batch_size: evaluation.BatchOption = 16,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    output: evaluation.OutputOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Compare methods on held-out scenes: the same questions for all, with paired bootstrap intervals.

    Each picture is drawn and encoded once. You get accuracy by question type, the share of the full model's accuracy, and our
    method against every other one at the same number of tokens.
    """
    from trimkit.eval import suite, suite_results
    from trimkit.eval.journal import check_journal
    from trimkit.eval.question_types import parse_types

    grids = [_parse_grid(text) for text in grid or ()]
    if grids and config is not None:
        raise ConfigError("--grid names all options itself: leave --config out")
    if grids and fallback is not None:
        raise ConfigError("--grid compares options of methods: leave --fallback out")
    call = common.pick_call(config, None, fallback, threshold, scorer)
    scorer = call.pop("scorer", None)
    evaluation.tell_left({name: value for name, value in call.items() if name != "fallback"})
    arms = _grid_arms(grids) if grids else _arms(method, budget, config, model, call)
    where = (batch_size, shift, positions, device, dtype, query, scorer)
    plan = suite.Plan(model, seed, n, tuple(arms), *where, parse_types(types), padding)  # type: ignore[arg-type]
    plan.check()
    if ours != _OURS and all(arm.method.name != ours for arm in arms):
        raise ConfigError(f"--ours {ours!r} is none of the methods that are run: add it to --method")
    target = common.check_output(output, config, journal, model=model, scorer=scorer)
    book = check_journal(journal, [config, *common.model_files(model), *common.model_files(scorer)])
    with common.quiet(), progress("suite", n) as advance:
        outcomes = suite.run(plan, journal=book, workers=workers, advance=advance)
    named = ours if any(arm.method.name == ours for arm in arms) else None
    result = suite_results.summarise(outcomes, ours=named, grid=grids)
    if target is not None:
        common.write_json(target, result)
    if as_json:
        common.print_json(result)
    else:
        _print(result)


def _arms(methods: str, budgets: str, config: str | None, model: str, call: dict[str, Any]) -> list[Any]:
    """The full model first, then every method with every budget; ``default`` is the config's, where there is one.

    With a fallback, every arm that can fall back is there once more, with it.
    """
    from trimkit.core.confidence import fallback_of
    from trimkit.eval.suite import Arm

    again = fallback_of(call.get("fallback"))
    found = [Arm(common.pick_method("none", None, None))]
    for name, *settings in _named(methods):
        for budget in () if name == "none" else [part.strip() for part in budgets.split(",")]:
            own = None if budget == "default" else budget
            chosen = common.pick_method(name, own, settings, config, model, whole=True)
            found.append(Arm(chosen, budget, " ".join(settings)))
            if again is not None and not (chosen.keeps_all or chosen.prunes_llm):
                found.append(Arm(chosen, budget, " ".join(settings), again))
    return found


def _named(methods: str) -> list[list[str]]:
    """Each method with its settings. All: ``trim-released`` comes with the encoder's sign before it comes as it is.

    Raises:
        ConfigError: an empty name.
    """
    from trimkit.methods import method_classes

    if methods == "all":
        names = [name for name, _ in method_classes()]
        own = {name: [name, *_OWN_SIGN[name]] for name in names if name in _OWN_SIGN}
        return [each for name in names for each in ([own[name], [name]] if name in own else [[name]])]
    found = [part.split() for part in methods.split(",")]
    if not all(found):
        raise ConfigError(f"--method {methods!r} has a comma too many: give names with one comma between")
    return found


def _grid_arms(grids: Sequence[dict[str, Any]]) -> list[Any]:
    """The full model, then every combination of a grid's options."""
    from trimkit.eval.suite import Arm
    from trimkit.methods import get_method

    found = [Arm(common.pick_method("none", None, None))]
    for each in grids:
        options = {name: values for name, values in each.items() if name != "method"}
        for values in itertools.product(*options.values()):
            chosen = dict(zip(options, values, strict=True))
            asked = " ".join(f"{name}={value}" for name, value in chosen.items())
            found.append(Arm(get_method(each["method"], **chosen), asked))
    return found


def _parse_grid(text: str) -> dict[str, Any]:
    """``trim sign=1|-1 budget=iqr|64`` as ``{"method": "trim", "sign": [1, -1], ...}``.

    Raises:
        ConfigError: it is not of that form.
    """
    name, *parts = text.split() or [""]
    found: dict[str, Any] = {"method": name} if parts else {}
    for part in parts:
        option, equals, values = part.partition("=")
        if not (option and equals and values) or option in found:
            found = {}
            break
        found[option] = [common.read_value("--grid", value) for value in values.split("|")]
    if not found:
        raise ConfigError(f"--grid {text!r} is not 'METHOD OPTION=V1|V2 ...': give for example 'trim sign=1|-1'")
    return found


def _print(result: dict[str, Any]) -> None:
    kinds = list(result["n_by_type"])
    by = "" if result["query"] is None else f", patches chosen by {result['query']!r}"
    print(f"{result['n']} questions, seed {result['seed']}, pictures: {result['shift']}{by}")
    print(f"  {'':<28} {'tokens':>7} {'all':>7} {'of full':>8}  " + " ".join(f"{kind[:9]:>9}" for kind in kinds))
    for arm in result["arms"]:
        share = (arm.get("relative") or {}).get("value")
        cells = " ".join(f"{arm['accuracy_by_type'][kind]:9.1%}" for kind in kinds)
        of_full = "" if share is None else f"{share:.1%}"
        kept = arm["image_tokens_kept_mean"]
        print(f"  {arm['label']:<28} {kept:7.1f} {arm['accuracy']:7.1%} {of_full:>8}  {cells}")
    if result.get("not_learnt"):
        print(f"  not learnt, below 85% with all tokens: {', '.join(result['not_learnt'])}")
    for each in result.get("filtered", ()):
        scores = [f"{arm['label']} {arm['accuracy']:.1%}" for arm in each["arms"] if arm["accuracy"] is not None]
        print(
            f"  {each['n']} questions that need more than a smaller picture of {each['budget']} tokens: {', '.join(scores)}"
        )
    for entry in result.get("comparisons", ()):
        print(f"  {entry['ours']} minus {entry['other']}: {_points(entry)}")
    for entry in result.get("effects", ()):
        changed = f"{entry['method']}, {entry['option']} {entry['reference']} to {entry['value']}"
        print(f"  {changed}: alone {_points(entry['alone'])}; on average {_points(entry['on_average'])}")


def _points(entry: dict[str, Any]) -> str:
    low, high = entry["ci95"]
    clear = ", significant" if entry["significant"] else ""
    return f"{100 * entry['value']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}{clear})"
