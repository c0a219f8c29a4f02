"""``trimkit show``: a picture of what was kept for a question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimkit.cli import _asking as asking
from trimkit.cli import _common as common
from trimkit.cli.ask import describe, print_notes, seen_boxes
from trimkit.errors import ConfigError
from trimkit.io.text import one_line

if TYPE_CHECKING:
    from trimkit.ask import Answer

NAME = "show"

_WIDTH = 1140  # of what is drawn between panels and caption


_OF_THE_SERVER = ("model", "scorer", "device", "dtype", "config")


def command(
    context: typer.Context,
    words: asking.WordsArgument = None,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write: .png, .jpg or .webp.")] = (
        "overlay.png"
    ),
    model: common.ModelOption = "demo",
    method: common.MethodOption = None,
    config: common.ConfigOption = None,
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    scorer: common.ScorerOption = None,
    frames: asking.FramesOption = 8,
    server: Annotated[
        str | None,
        typer.Option("--server", help="Ask a running server (trimkit serve) at this address, and draw its report."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="TRIMKIT_API_KEY", help="Key of the server.")
    ] = None,
    max_new_tokens: common.MaxNewTokensOption = 32,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Draw which patches of a picture, or of several, stay for a question.

    On the left you see the kept patches, on the right their ranking, below both answers with tokens and seconds. If a method
    merges, each token has one tint. What the model's processor cropped is dark. With --server, a running server answers, and
    this command draws its report.
    """
    if server is not None:
        given = {"method": method, "budget": budget, **common.read_settings(settings)}
        _refuse(context)
        trim = {name: value for name, value in given.items() if value is not None}
        _show_server(asking.read_words(words, frames), output, (server, api_key), trim, max_new_tokens, as_json)
        return
    from trimkit import viz
    from trimkit.ask import compare

    chosen = common.pick_method(method, budget, settings, config, model, scorer=scorer)
    asked = asking.read_words(words, frames)
    viz.check_output(output, [config, *asked.files, *common.model_files(model), *common.model_files(scorer)])
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


def _show_server(
    asked: asking.Asked,
    output: str,
    place: tuple[str, str | None],
    trim: dict[str, Any],
    tokens: int,
    as_json: bool,
) -> None:
    from trimkit import viz
    from trimkit.cli import _server as served

    viz.check_output(output, asked.files)
    url, key = place
    answer = served.ask_server(url, asked.pictures, asked.question, trim, tokens, key)
    path = viz.save_picture(served.draw_answer(answer, asked.pictures, asked.question), output)
    before, after = (answer.trim or {}).get("image_tokens_before"), (answer.trim or {}).get("image_tokens")
    if as_json:
        counts = {"image_tokens_full": before, "image_tokens_kept": after}
        common.print_json({"path": str(path), "answer": answer.text, **counts, "seconds": round(answer.seconds, 4)})
        return
    print(f"question  {one_line(asked.question)}")
    print(
        f"server    {one_line(answer.text) or '(nothing)'}   [{after} of {before} image tokens, {answer.seconds:.3f} s]"
    )
    print(f"picture   {path}")


def _refuse(context: typer.Context) -> None:
    """Refuse options that are the server's own.

    Raises:
        ConfigError: one is given.
    """
    for name in _OF_THE_SERVER:
        if common.is_given(context, name):
            raise ConfigError(f"--{name} is the server's own: give it to 'trimkit serve', and leave it out here")


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
