"""``trimkit bench``: time, memory and FLOPs of a model with all image tokens and with fewer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from trimkit.cli import _common as common
from trimkit.cli._progress import progress
from trimkit.errors import ConfigError
from trimkit.io.numbers import parse_gigabytes, parse_shares, parse_whole_numbers

NAME = "bench"


def command(
    named: Annotated[
        str | None,
        typer.Argument(
            metavar="[PRESET]",
            help="'claim': the paper's claim at LLaVA-1.5-7B's shape (on a CPU with 2 of its layers, the rest extrapolated). "
            "'ask' stands for --random clip-l-336 --device cpu --dtype float32, a quick look at what is saved.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="'demo', a directory, or a hub id OWNER/NAME.", show_default="demo"),
    ] = None,
    scorer: common.ScorerOption = None,
    random: Annotated[
        str | None,
        typer.Option(
            "--random",
            metavar="SHAPE",
            help="Random weights of a shape: llava-1.5-7b, llava-next-7b, llava-onevision-7b, qwen2.5-vl-7b, "
            "qwen3-vl-8b, clip-l-336, small ...; docs/efficiency.md has them all.",
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option("--layers", help="Build only so many layers of the language model; extrapolate the rest."),
    ] = None,
    method: common.MethodsOption = None,
    config: common.ConfigOption = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Image tokens to keep, or several with commas between: 121, 0.2, iqr, auto, top-p:0.9.",
            show_default="the method's own; 21 % of a random shape's",
        ),
    ] = None,
    settings: common.SetOption = None,
    tower_keep: Annotated[
        str | None,
        typer.Option(
            "--tower-keep",
            help="Share of patches that go through the whole vision tower, or several; 1.0 is all.",
            show_default="1.0",
        ),
    ] = None,
    tower_layer: common.TowerLayerOption = None,
    vision_engine: Annotated[
        str | None,
        typer.Option(
            "--vision-engine",
            help="What runs the vision tower of reduced calls, or several: torch, openvino, onnxruntime.",
            show_default="torch",
        ),
    ] = None,
    new_tokens: Annotated[
        str | None, typer.Option("--new-tokens", help="Tokens of the reply, or several lengths.", show_default="1")
    ] = None,
    batch_size: Annotated[str, typer.Option("--batch-size", help="Requests per call, or several sizes.")] = "1",
    pictures: Annotated[int, typer.Option("--pictures", help="Pictures in each prompt of a random shape.")] = 1,
    memory: Annotated[
        float | None,
        typer.Option("--memory", help="Gigabytes: also print the largest batch that fits, full and reduced."),
    ] = None,
    questions: Annotated[
        int, typer.Option("--questions", help="Questions about each picture, one after the other.")
    ] = 1,
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Text tokens of a random shape's prompt.")] = 40,
    repeats: Annotated[
        int | None, typer.Option("--repeats", help="Timed runs of each arm, all arms in turn.", show_default="9")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights and inputs.")] = 0,
    device: Annotated[
        str | None,
        typer.Option("--device", help="'cpu', 'auto' (a GPU where there is one), or cuda:N.", show_default="auto"),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="'auto' (half precision where it is fast), 'float32', 'float16' or 'bfloat16'.",
            show_default="auto",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads.", show_default="torch's own")] = None,
    plot: Annotated[
        str | None, typer.Option("--plot", help="Also draw time against image tokens: a .png or .svg file.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Also write the JSON to this file.")] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Measure what fewer image tokens save: time, memory, FLOPs.

    After a warm-up, the stock model and every method at every budget answer in turn. You get medians with quartiles, and ratios
    with 95% intervals. A random shape is as fast as a trained model of that shape.
    """
    from trimkit.bench.plot import check_plot
    from trimkit.bench.presets import preset
    from trimkit.bench.run import Settings, bench

    given = {
        "random": random,
        "device": device,
        "dtype": dtype,
        "layers": layers,
        "methods": None if method is None else tuple(_words(method)),
        "budgets": None if budget is None else tuple(_words(budget)),
        "new_tokens": None if new_tokens is None else parse_whole_numbers("--new-tokens", new_tokens),
        "repeats": repeats,
    }
    fields = preset(named, device, own_methods=config is not None)
    if named is not None and model is not None:
        raise ConfigError(f"preset {named!r} brings its own model: leave --model out")
    wanted = Settings(
        model=model,
        scorer=scorer,
        **{**fields, **{name: value for name, value in given.items() if value is not None}},
        config=config,
        options=common.read_settings(settings),
        tower_keeps=(None,) if tower_keep is None else _shares(tower_keep),
        tower_layer=tower_layer,
        vision_engines=_engines(vision_engine),
        batch_sizes=parse_whole_numbers("--batch-size", batch_size),
        pictures=pictures,
        memory=None if memory is None else parse_gigabytes(memory),
        questions=questions,
        text_tokens=text_tokens,
        seed=seed,
        threads=threads,
    )
    target = common.check_output(output, config, model=model or "demo", scorer=scorer)
    picture = None if plot is None else check_plot(plot, [config, target, *common.model_files(model or "demo")])
    with common.quiet(), progress("bench", 0, "loading or building the model, first run") as advance:
        found = bench(wanted, advance=advance, expect=advance.expect, warn=_warn)
    _give_out(found, target, picture, as_json=as_json, beside_the_paper=named == "claim")


def _give_out(
    found: dict[str, Any], target: Path | None, picture: Path | None, *, as_json: bool, beside_the_paper: bool
) -> None:
    """Write, draw and print what was measured."""
    from trimkit.bench.plot import draw
    from trimkit.bench.presets import PAPER
    from trimkit.bench.table import lines

    if target is not None:
        common.write_json(target, found)
    if picture is not None:
        draw(found, picture)
    if as_json:
        common.print_json(found)
        return
    for line in (*lines(found), *(["", PAPER] if beside_the_paper else ())):
        print(line)


def _words(given: str) -> list[str]:
    return [word.strip() for word in given.split(",")]


def _shares(given: str) -> tuple[float | None, ...]:
    return tuple(None if share == 1.0 else share for share in parse_shares("--tower-keep", given))


def _engines(given: str | None) -> tuple[str | None, ...]:
    return tuple(None if word == "torch" else word for word in _words(given or "torch"))


def _warn(line: str) -> None:
    print(f"trimkit: {line}", file=sys.stderr)
