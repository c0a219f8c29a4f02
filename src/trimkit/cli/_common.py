"""What commands share: option declarations, reading of methods, quiet loading, printing JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trimkit.cli._quiet import quiet as quiet
from trimkit.errors import ConfigError
from trimkit.io.files import check_writable, user_path, write_atomically
from trimkit.io.numbers import MAX_NEW_TOKENS
from trimkit.io.reading import checkpoint_files
from trimkit.io.text import is_text, json_text, parse_json

__all__ = [
    "BudgetOption",
    "ConfigOption",
    "DeviceOption",
    "DtypeOption",
    "FallbackOption",
    "JsonOption",
    "MaxNewTokensOption",
    "MethodOption",
    "MethodsOption",
    "ModelOption",
    "ScorerOption",
    "SetOption",
    "ThresholdOption",
    "TowerLayerOption",
    "VisionEngineOption",
    "check_output",
    "is_given",
    "load",
    "model_files",
    "pick_call",
    "pick_method",
    "pick_methods",
    "print_json",
    "quiet",
    "read_settings",
    "read_value",
    "write_json",
]

ModelOption = Annotated[
    str, typer.Option("--model", help="'demo' (the packaged model), a directory, or a hub id OWNER/NAME.")
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method", help="Reduction method; 'trimkit methods' lists them.", show_default="trim, or the config's"
    ),
]
MethodsOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="A reduction method, or several with commas between.",
        show_default="trim, or the config's",
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config", help="Method and options from a file that 'trimkit calibrate' wrote; options beside it win."
    ),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Image tokens to keep: 'iqr', 'auto', 'top-p:0.9', a fraction such as 0.2 (1.0: all), or a number such as 121.",
        show_default="the method's own",
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="Another option of the method; repeatable.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="'cpu', 'auto' (a GPU where there is one), or cuda:N.")]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help="'auto' (the checkpoint's), 'float32', 'float16' or 'bfloat16'.")
]
MaxNewTokensOption = Annotated[
    int, typer.Option("--max-new-tokens", min=1, max=MAX_NEW_TOKENS, help="Most tokens of the reply.")
]
ScorerOption = Annotated[
    str | None,
    typer.Option(
        "--scorer",
        help="What scores relevance to the question: a CLIP or SigLIP (directory or hub id), or what 'trimkit fit' wrote.",
        show_default="the checkpoint's own",
    ),
]
TowerLayerOption = Annotated[
    int | None,
    typer.Option(
        "--tower-layer",
        help="Number of tower layers that see all patches.",
        show_default="two fifths, with --tower-keep",
    ),
]
VisionEngineOption = Annotated[
    str | None,
    typer.Option(
        "--vision-engine",
        help="Engine for the vision tower, on a CPU: 'openvino' or 'onnxruntime' (extras of the same names).",
        show_default="torch",
    ),
]
FallbackOption = Annotated[
    str | None,
    typer.Option(
        "--fallback",
        help="'full': ask again with all image tokens if the model is unsure; 'none': do not.",
        show_default="the config's, else none",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option("--threshold", help="Ask again below this confidence.", show_default="the config's, else 0.5"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def pick_method(
    name: str | None,
    budget: str | None,
    settings: Sequence[str] | None,
    config: str | None = None,
    model: str | None = None,
    *,
    whole: bool = False,
    scorer: str | None = None,
) -> Any:
    """Build the method before anything slow happens; see ``trimkit.config.configured``.

    An exported ``model`` is reduced as its own settings say, where nothing else is given. What a config says beside the method
    is left out with a line that says so, unless the command takes ``pick_call``, too (``whole``); a ``scorer`` that is given
    stands for the config's.

    Raises:
        ConfigError: unknown name, bad budget, a setting that the method does not have, or a config that cannot be read.
    """
    from trimkit.config import call_options, configured, exported_reduction

    given = {} if budget is None else {"budget": budget}
    own = None if model is None or config is not None else exported_reduction(model)
    left = {} if whole else call_options(config, own)
    if told := [said for said in left if said != "scorer" or scorer is None]:
        print(f"trimkit: this command reduces without the config's {' and '.join(told)}", file=sys.stderr)
    return configured(config, name, own, **{**given, **read_settings(settings)})


def pick_call(
    config: str | None,
    model: str | None,
    fallback: str | None = None,
    threshold: float | None = None,
    scorer: str | None = None,
) -> dict[str, Any]:
    """``fallback``, ``positions`` and ``scorer`` as the config, or an exported ``model``, says; what is given beside them wins.

    Raises:
        ConfigError: a fallback that is not known, or a threshold without one.
    """
    from trimkit.config import call_options, exported_reduction
    from trimkit.core.confidence import fallback_of

    own = None if model is None or config is not None else exported_reduction(model)
    found = call_options(config, own)
    if scorer is not None:
        found["scorer"] = scorer
    if fallback is not None:
        found["fallback"] = None if fallback == "none" else fallback_of(fallback)
    if threshold is not None:
        said = fallback_of(found.get("fallback"))
        if said is None:
            raise ConfigError("--threshold is when a question is asked again: give --fallback full, too")
        found["fallback"] = fallback_of({**said.model_dump(), "threshold": threshold, "thresholds": (), "agreed": ()})
    return found


def pick_methods(
    names: str | None,
    budget: str | None,
    settings: Sequence[str] | None,
    config: str | None = None,
    model: str | None = None,
) -> list[Any]:
    """``pick_method`` for names with commas between."""
    wanted = [None] if names is None else [name.strip() for name in names.split(",")]
    return [pick_method(name, budget, settings, config, model) for name in wanted]


def read_settings(settings: Sequence[str] | None) -> dict[str, Any]:
    """``OPTION=VALUE`` each, the value as JSON where it is that.

    Raises:
        ConfigError: something else.
    """
    options: dict[str, Any] = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise ConfigError(f"--set {setting!r} is not OPTION=VALUE: give for example --set aggregate=none")
        options[key] = read_value(f"--set {key}", value)
    return options


def read_value(option: str, text: str) -> Any:
    """``text`` as JSON where it is that, else as it is.

    Raises:
        ConfigError: it is JSON that is nested too deep or holds too large a number; or it is no text.
    """
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        pass
    except ValueError as error:
        raise ConfigError(f"{option}: {error}: give a plain value") from None
    if not is_text(text):
        raise ConfigError(f"{option}: {text!r} is not UTF-8 text: give a plain value")
    return text


def check_output(path: str | None, *used: Any, model: str | None = None, scorer: str | None = None) -> Path | None:
    """Where a result is to go, checked before the work; None where it goes to no file.

    Args:
        path: as the user gave it.
        used: files that the command reads or writes otherwise; None is skipped.
        model, scorer: what the command loads, none of whose files is to be written over.

    Raises:
        InputError: as ``trimkit.io.files.check_writable``.
    """
    return None if path is None else check_writable(path, [*used, *model_files(model), *model_files(scorer)])


def model_files(model: str | None) -> list[Path]:
    """Files of a checkpoint that is a directory here."""
    from trimkit.demo import demo_model_path

    if model is None:
        return []
    folder = demo_model_path() if model == "demo" else user_path(model)
    return checkpoint_files(folder) if folder.is_dir() else []


def load(model: str, device: str, dtype: str) -> tuple[Any, Any]:
    """``trimkit.loading.load_model``; on a terminal a line says what is loading for as long as it takes."""
    from rich.console import Console
    from rich.markup import escape

    from trimkit.loading import load_model

    console = Console(stderr=True)
    said = console.status(f"loading {escape(model)}") if console.is_terminal else contextlib.nullcontext()
    with said:
        return load_model(model, device=device, dtype=dtype)


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the user has given an option, even with the value that it has by default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def print_json(value: Any) -> None:
    """One JSON document on stdout, in letters that it has."""
    sys.stdout.write(json_text(value, getattr(sys.stdout, "encoding", None)))


def write_json(target: Path, value: Any) -> None:
    """Write a JSON document, whole or not at all.

    Raises:
        InputError: the disk refuses.
    """
    text = json_text(value)
    write_atomically(target, lambda file: file.write(text.encode()))
