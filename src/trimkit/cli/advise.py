"""``trimkit advise``: whether fewer image tokens help on a device, before anything is run there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from trimkit.cli import _common as common
from trimkit.errors import ConfigError

NAME = "advise"


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="A shape (llava-1.5-7b, qwen2.5-vl-7b ...: as 'trimkit bench --random'), 'demo' or a directory."
        ),
    ] = "llava-1.5-7b",
    device: Annotated[
        str,
        typer.Option(
            "--device", help="h100, h200, a100, l4, rtx-4090 ...; 'here' measures this machine in ten seconds."
        ),
    ] = "h100",
    picture: Annotated[
        str | None,
        typer.Option("--picture", metavar="WxH", help="Size of a picture in pixels.", show_default="the shape's own"),
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", help="Pictures in each prompt.")] = 1,
    budget: Annotated[
        int | None,
        typer.Option(
            "--budget", help="Image tokens to keep per picture.", show_default="21 %, as the paper's 121 of 576"
        ),
    ] = None,
    method: Annotated[str, typer.Option("--method", help="Reduction method; 'trimkit methods' lists them.")] = "trim",
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Text tokens of the prompt.")] = 40,
    new_tokens: Annotated[int, typer.Option("--new-tokens", help="Length of the answer.")] = 32,
    clients: Annotated[int, typer.Option("--clients", help="Requests answered together, as one batch.")] = 1,
    compiled: Annotated[bool, typer.Option("--compiled", help="Assume compiled prefill and decoding.")] = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="bfloat16, float16 or float32.", show_default="the device's first")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads, with --device here.", show_default="torch's own")
    ] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Predict whether fewer image tokens help on a device, and why.

    It calculates where a request's time goes, from the device's published figures or from figures measured here. It loads and
    downloads no model.
    """
    from trimkit.advice.advise import Question, advise
    from trimkit.advice.devices import device_of
    from trimkit.advice.model import model_of, with_picture
    from trimkit.methods import get_method

    get_method(method)
    shape = model_of(model)
    if picture is not None:
        shape = with_picture(shape, *_size(picture))
    if threads is not None and device != "here":
        raise ConfigError("--threads is for --device here: leave it out")
    chosen = _here(threads) if device == "here" else device_of(device)
    with common.quiet():
        found = advise(
            Question(
                shape=shape,
                device=chosen,
                dtype=dtype or next(iter(chosen.rates)),
                method=method,
                tokens=budget,
                pictures=pictures,
                text_tokens=text_tokens,
                new_tokens=new_tokens,
                clients=clients,
                compiled=compiled,
            )
        )
    if as_json:
        common.print_json({"named": model, **found})
        return
    for line in _lines(model, found):
        print(line)


def _here(threads: int | None) -> Any:
    """This machine's figures."""
    import torch

    from trimkit.advice.here import measured
    from trimkit.bench.machine import threads as with_threads
    from trimkit.loading import pick_device

    if threads is not None and not 1 <= threads <= 4096:
        raise ConfigError(f"threads {threads} is outside 1 to 4096: give a number between")
    with with_threads(threads), torch.no_grad():
        return measured(pick_device("auto"))


def _size(text: str) -> tuple[int, int]:
    """``1280x960``."""
    width, _, height = text.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit() and len(text) < 20):
        raise ConfigError(f"--picture {text!r} is not WIDTHxHEIGHT: give for example 1280x960")
    return int(width), int(height)


def _lines(model: str, found: dict[str, Any]) -> Iterator[str]:
    request, device, memory = found["request"], found["device"], found["memory"]
    compiled = ", compiled" if request["compiled"] else ""
    yield f"{model} on {device['name']}, {request['dtype']}{compiled} ({device['source']}, {device['date']})"
    yield (
        f"{request['pictures']} picture(s) of {found['model']['image_tokens']} tokens, {request['text_tokens']} of text, "
        f"{request['new_tokens']} new ones, batch {request['clients']}; predicted, not measured"
    )
    yield ""
    yield f"{'':<22}{'full':>11}{request['method'] + ' ' + str(request['tokens']):>16}"
    for name, value in found["full"]["stages_s"].items():
        yield f"{name:<22}{_seconds(value):>11}{_seconds(found['reduced']['stages_s'][name]):>16}"
    for title, key in (("whole request", "seconds"), ("first token", "first_token_s")):
        yield f"{title:<22}{_seconds(found['full'][key]):>11}{_seconds(found['reduced'][key]):>16}"
    waits = [found[name]["waiting_for_launches"] for name in ("full", "reduced")]
    yield f"{'waiting for launches':<22}{waits[0]:>11.0%}{waits[1]:>16.0%}"
    yield f"{'memory':<22}{memory['full_bytes'] / 1e9:>8.1f} GB{memory['reduced_bytes'] / 1e9:>13.1f} GB"
    yield f"{'requests that fit':<22}{memory['full_most']:>11}{memory['reduced_most']:>16}"
    yield ""
    yield f"{'image tokens':<14}{'seconds':>10}{'speed-up':>10}{'requests/s':>12}{'fit at once':>13}"
    for each in found["budgets"]:
        cells = f"{_seconds(each['seconds']):>10}{each['speedup']:>9.2f}x{each['requests_per_s']:>12.3g}"
        yield f"{each['tokens']:<14}{cells}{each['most_requests']:>13}"
    yield ""
    yield found["verdict"]


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"
