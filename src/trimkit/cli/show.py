"""``trimkit show``: a picture of what was kept for a question."""

from __future__ import annotations

from typing import Annotated

import typer

from trimkit.cli import _common as common
from trimkit.cli.ask import describe
from trimkit.io.text import one_line

NAME = "show"


def command(
    image: Annotated[
        str | None, typer.Argument(help="A picture, or the name of a packaged sample.", show_default="a sample")
    ] = None,
    question: Annotated[
        str | None, typer.Argument(help="What to ask.", show_default="the sample's own question")
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="Where the picture goes: .png, .jpg or .webp.")] = (
        "overlay.png"
    ),
    model: common.ModelOption = "demo",
    method: common.MethodOption = None,
    config: common.ConfigOption = None,
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    max_new_tokens: common.MaxNewTokensOption = 32,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Draw what is kept of a picture for a question.

    Left the kept patches, right the relevance map, below both answers with tokens and seconds.
    """
    from trimkit import viz
    from trimkit.ask import compare

    chosen = common.pick_method(method, budget, settings, config)
    picture, text = common.pick_picture(image, question)
    viz.check_output(output, [config, common.picture_file(image), *common.model_files(model)])
    with common.quiet():
        loaded, processor = common.load(model, device, dtype)
        reduced, full = compare(loaded, processor, picture, text, method=chosen, max_new_tokens=max_new_tokens)
        drawn = viz.answer_overlay(picture, processor, text, reduced, full, method=chosen)
    path = viz.save_picture(drawn, output)
    if as_json:
        common.print_json({"path": str(path), **reduced.to_plain(), "full": full.to_plain()})
        return
    print(f"question  {one_line(text)}")
    print(f"{chosen.name:<9} {describe(reduced)}")
    print(f"{'full':<9} {describe(full)}")
    print(f"picture   {path}")
