"""``trimkit ask``: one question about one or several pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimkit.cli import _asking as asking
from trimkit.cli import _common as common
from trimkit.io.text import one_line

if TYPE_CHECKING:
    from trimkit.ask import Answer

NAME = "ask"


def command(
    words: asking.WordsArgument = None,
    model: common.ModelOption = "demo",
    method: common.MethodOption = None,
    config: common.ConfigOption = None,
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    scorer: common.ScorerOption = None,
    fallback: common.FallbackOption = None,
    threshold: common.ThresholdOption = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also ask the full model, and time both fairly.")] = False,
    vision_engine: common.VisionEngineOption = None,
    frames: asking.FramesOption = 8,
    max_new_tokens: common.MaxNewTokensOption = 32,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Ask one question about one picture or several, with fewer image tokens.

    Seconds cover one generate call, from pixels to reply; with --compare they are medians of several calls in turn. If you give
    no method, budget or config, a checkpoint that 'trimkit export' wrote uses its own.
    """
    from trimkit import ask

    chosen = common.pick_method(method, budget, settings, config, model, whole=True)
    call = common.pick_call(config, model, fallback, threshold, scorer)
    asked = asking.read_words(words, frames)
    options = {
        "method": chosen,
        "max_new_tokens": max_new_tokens,
        "vision_engine": vision_engine,
        **call,
    }
    with common.quiet():
        loaded, processor = common.load(model, device, dtype)
        full = None
        if compare:
            reduced, full = ask.compare(loaded, processor, asked.pictures, asked.question, **options)
        else:
            reduced = ask.ask(loaded, processor, asked.pictures, asked.question, **options)
        notes = asking.crop_notes(asked, seen_boxes(loaded, processor, asked, reduced))
    outside = asking.NOT_TRAINED_ON if model == "demo" and asked.foreign else None
    if as_json:
        common.print_json({**reduced.to_plain(), **({} if full is None else {"full": full.to_plain()})})
        print_notes([*([] if outside is None else [outside]), *notes], aside=True)
        return
    print(f"question  {one_line(asked.question)}")
    taken = None if budget is None else chosen.budget
    print(f"{chosen.name:<9} {describe(reduced, taken)}{'' if outside is None else f'; {outside}'}")
    if full is not None:
        print(f"{'full':<9} {describe(full)}")
        print(f"{'':<9} {verdict(reduced, full)}")
    print_notes(notes)


def seen_boxes(model: Any, processor: Any, asked: asking.Asked, answer: Answer) -> Sequence[Any]:
    """Which part of every picture the model saw; nothing is known of an answer without a report."""
    from trimkit.ask import seen_boxes

    if answer.report is None:
        return [None] * len(asked.pictures)
    return seen_boxes(model, processor, asked.pictures, answer.report)


def print_notes(notes: Sequence[str], *, aside: bool = False) -> None:
    """What a reader of the answer must know, a line each; ``aside`` where stdout is a document."""
    for note in notes:
        if aside:
            print(f"trimkit: {one_line(note)}", file=sys.stderr)
        else:
            print(f"{'note':<9} {one_line(note)}")


def describe(answer: Answer, budget: Any = None) -> str:
    """Reply, tokens and seconds on one line, and how a ``budget`` that was given was read."""
    reply = one_line(answer.answer) or "(nothing)"
    counts = f"{answer.image_tokens_kept} of {answer.image_tokens_full} image tokens"
    read = "" if budget is None else f", budget {budget.in_words()}"
    rungs = () if answer.report is None else answer.report.rungs
    if rungs:
        sure = "sure at once" if len(rungs) == 1 else f"asked again with {rungs[-1].budget}"
        read = f"{read}, {sure}"
    return f"{reply}   [{counts}{read}, {answer.seconds:.3f} s]"


def verdict(reduced: Answer, full: Answer) -> str:
    """The two answers compared, on one line."""
    same = "same answer" if reduced.answer == full.answer else "another answer"
    removed = 1 - reduced.image_tokens_kept / max(full.image_tokens_full, 1)
    times = full.seconds / max(reduced.seconds, 1e-9)
    return f"{same}, {removed:.0%} of the image tokens removed, {times:.1f} times as fast"
