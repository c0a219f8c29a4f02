"""``trimkit ask``: one question about one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trimkit.cli import _common as common
from trimkit.io.text import one_line

if TYPE_CHECKING:
    from trimkit.ask import Answer

NAME = "ask"


def command(
    image: Annotated[
        str | None, typer.Argument(help="A picture, or the name of a packaged sample.", show_default="a sample")
    ] = None,
    question: Annotated[
        str | None, typer.Argument(help="What to ask.", show_default="the sample's own question")
    ] = None,
    model: common.ModelOption = "demo",
    method: common.MethodOption = None,
    config: common.ConfigOption = None,
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also ask the full model, and time both fairly.")] = False,
    max_new_tokens: common.MaxNewTokensOption = 32,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Ask one question about one picture, with fewer image tokens.

    Seconds are those of one generate call, from pixels to reply; with --compare medians of several, in turn.
    """
    from trimkit import ask

    chosen = common.pick_method(method, budget, settings, config)
    picture, text = common.pick_picture(image, question)
    with common.quiet():
        loaded, processor = common.load(model, device, dtype)
        full = None
        if compare:
            reduced, full = ask.compare(loaded, processor, picture, text, method=chosen, max_new_tokens=max_new_tokens)
        else:
            reduced = ask.ask(loaded, processor, picture, text, method=chosen, max_new_tokens=max_new_tokens)
    if as_json:
        common.print_json({**reduced.to_plain(), **({} if full is None else {"full": full.to_plain()})})
        return
    print(f"question  {one_line(text)}")
    print(f"{chosen.name:<9} {describe(reduced)}")
    if full is not None:
        print(f"{'full':<9} {describe(full)}")
        print(f"{'':<9} {verdict(reduced, full)}")


def describe(answer: Answer) -> str:
    """Reply, tokens and seconds on one line."""
    reply = one_line(answer.answer) or "(nothing)"
    counts = f"{answer.image_tokens_kept} of {answer.image_tokens_full} image tokens"
    return f"{reply}   [{counts}, {answer.seconds:.3f} s]"


def verdict(reduced: Answer, full: Answer) -> str:
    """The two answers compared, on one line."""
    same = "same answer" if reduced.answer == full.answer else "another answer"
    removed = 1 - reduced.image_tokens_kept / max(full.image_tokens_full, 1)
    times = full.seconds / max(reduced.seconds, 1e-9)
    return f"{same}, {removed:.0%} of the image tokens removed, {times:.1f} times as fast"
