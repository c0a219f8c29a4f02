"""What commands share: option declarations, reading of methods, quiet loading, printing JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trimkit.errors import ConfigError
from trimkit.io.files import write_atomically

__all__ = [
    "BudgetOption",
    "ConfigOption",
    "DeviceOption",
    "DtypeOption",
    "JsonOption",
    "MaxNewTokensOption",
    "MethodOption",
    "MethodsOption",
    "ModelOption",
    "ScorerOption",
    "SetOption",
    "TowerLayerOption",
    "load",
    "pick_method",
    "pick_methods",
    "print_json",
    "quiet",
    "read_settings",
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
    typer.Option("--config", help="Method and options from a file that 'trimkit calibrate' wrote; others given win."),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Image tokens to keep: 'iqr', 'top-p:0.9', a fraction such as 0.2 (1.0 keeps all), or a number such as 121.",
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
ScorerOption = Annotated[
    str | None,
    typer.Option(
        "--scorer",
        help="Where relevance to the question comes from: a CLIP or SigLIP, directory or hub id.",
        show_default="the checkpoint's own",
    ),
]
MaxNewTokensOption = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Length limit of the reply.")]
TowerLayerOption = Annotated[
    int | None,
    typer.Option(
        "--tower-layer", help="Layers of the tower that see all patches.", show_default="two fifths, with --tower-keep"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def pick_method(
    name: str | None,
    budget: str | None,
    settings: Sequence[str] | None,
    config: str | None = None,
    model: str | None = None,
) -> Any:
    """Build the method before anything slow happens; see ``trimkit.config.configured``.

    An exported ``model`` is reduced as its own settings say, where nothing else is given.

    Raises:
        ConfigError: unknown name, bad budget, a setting that the method does not have, or a config that cannot be read.
    """
    from trimkit.config import configured, exported_reduction

    given = {} if budget is None else {"budget": budget}
    own = None if model is None or config is not None else exported_reduction(model)
    return configured(config, name, own, **{**given, **read_settings(settings)})


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
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def load(model: str, device: str, dtype: str) -> tuple[Any, Any]:
    """``trimkit.loading.load_model``."""
    from trimkit.loading import load_model

    return load_model(model, device=device, dtype=dtype)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the log lines of the libraries below off the terminal, and their bars out of pipes; as before afterwards."""
    from huggingface_hub import utils as hub
    from transformers import utils as transformers

    logging: Any = transformers.logging  # typed only in part
    hub_logging: Any = hub.logging
    verbosity, hub_verbosity = logging.get_verbosity(), hub_logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    if not sys.stderr.isatty():  # on a terminal, the bars of a long download or load are wanted
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def write_json(target: Path, value: Any) -> None:
    """Write a JSON document, whole or not at all.

    Raises:
        InputError: the disk refuses.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomically(target, lambda file: file.write(text.encode()))
