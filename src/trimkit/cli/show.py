"""``trimkit show``: a picture of what was kept for a question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimkit.cli import _asking as asking
from trimkit.cli import _common as common
from trimkit.cli.ask import describe, print_notes, seen_boxes
from trimkit.io.text import one_line

if TYPE_CHECKING:
    from trimkit.ask import Answer

NAME = "show"

_WIDTH = 1140  # of what is drawn between panels and caption


def command(
    words: asking.WordsArgument = None,
    output: Annotated[str, typer.Option("--output", "-o", help="Where the picture goes: .png, .jpg or .webp.")] = (
        "overlay.png"
    ),
    model: common.ModelOption = "demo",
    method: common.MethodOption = None,
    config: common.ConfigOption = None,
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    scorer: common.ScorerOption = None,
    frames: asking.FramesOption = 8,
    max_new_tokens: common.MaxNewTokensOption = 32,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Draw what is kept of a picture, or of several, for a question.

    Left the kept patches, right what they were ranked by, below both answers with tokens and seconds. A method that merges has
    one tint for each token; what the model's processor cropped away is drawn dark on the picture as it was given.
    """
    from trimkit import viz
    from trimkit.ask import compare

    chosen = common.pick_method(method, budget, settings, config, model)
    asked = asking.read_words(words, frames)
    viz.check_output(output, [config, *asked.files, *common.model_files(model)])
    with common.quiet():
        loaded, processor = common.load(model, device, dtype)
        options = {"method": chosen, "scorer": scorer, "max_new_tokens": max_new_tokens}
        reduced, full = compare(loaded, processor, asked.pictures, asked.question, **options)
        boxes = seen_boxes(loaded, processor, asked, reduced)
        drawn = _draw(asked, boxes, reduced, full, chosen)
    path = viz.save_picture(drawn, output)
    outside = [asking.NOT_TRAINED_ON] if model == "demo" and asked.foreign else []
    notes = [*outside, *asking.crop_notes(asked, boxes)]
    if as_json:
        common.print_json({"path": str(path), **reduced.to_plain(), "full": full.to_plain()})
        print_notes(notes, aside=True)
        return
    print(f"question  {one_line(asked.question)}")
    print(f"{chosen.name:<9} {describe(reduced, None if budget is None else chosen.budget)}")
    print(f"{'full':<9} {describe(full)}")
    print(f"picture   {path}")
    print_notes(notes)


def _draw(asked: asking.Asked, boxes: Any, reduced: Answer, full: Answer, method: Any) -> Any:
    """The report with both answers, and every picture that was cropped."""
    from trimkit import viz
    from trimkit.errors import InputError

    if reduced.report is None:
        raise InputError("there is nothing to draw: the answer has no report of an image")
    cropped = [
        viz.draw_given(picture, box, _WIDTH)
        for picture, box in zip(asked.pictures, boxes, strict=True)
        if box is not None and (box[2] - box[0]) * (box[3] - box[1]) < 0.98
    ]
    return reduced.report.draw(
        question=asked.question,
        title=f"method {method.name}, budget {method.budget.in_words()}",
        lines=[("full", _cost(full), full.answer), (method.name, _cost(reduced), reduced.answer)],
        strips=cropped[:4],
    )


def _cost(answer: Answer) -> str:
    share = answer.image_tokens_kept / max(answer.image_tokens_full, 1)
    return f"{answer.image_tokens_kept} image tokens ({share:.0%}), {answer.seconds:.2f} s"
