"""``trimkit export``: a checkpoint that reduces under plain transformers, or its vision half as an ONNX graph."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trimkit.cli import _common as common
from trimkit.errors import ConfigError

NAME = "export"


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint's directory, a hub id OWNER/NAME, or 'demo'.")],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="A new directory.", show_default="into the checkpoint's own directory"),
    ] = None,
    method: common.MethodOption = None,
    config: common.ConfigOption = None,
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    scorer: common.ScorerOption = None,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    onnx: Annotated[
        bool,
        typer.Option("--onnx", help="Write tower, choice and projector as one ONNX graph, for any runtime; needs -o."),
    ] = False,
    as_json: common.JsonOption = False,
) -> None:
    """Write a checkpoint that plain transformers reduces.

    Load it with trust_remote_code=True and trimkit installed; otherwise it is the original one. --dtype loads the weights and
    saves them in that type; without it, a local checkpoint is copied unchanged. --onnx writes a graph that runs without
    trimkit: from pixels and the question's token ids to reduced embeddings and kept indices.
    """
    chosen = common.pick_method(method, budget, settings, config, model, scorer=scorer)
    if onnx:
        _write_graph(model, output, chosen, scorer, device, dtype, as_json=as_json)
        return
    from trimkit.attach.export import export

    with common.quiet():
        if dtype == "auto" and device == "cpu":
            path = export(model, output, method=chosen, scorer=scorer)
        else:
            path = export(*_loaded(model, output, device, dtype), method=chosen, scorer=scorer)
    if as_json:
        common.print_json({"path": str(path), "reduce": {"method": chosen.name, **chosen.model_dump(mode="json")}})
        return
    print(f"written  {path}")
    print("load     AutoModelForImageTextToText.from_pretrained(PATH, trust_remote_code=True)")


def _write_graph(
    model: str, output: str | None, method: Any, scorer: str | None, device: str, dtype: str, *, as_json: bool
) -> None:
    """The ONNX graph, and what goes in and out of it.

    Raises:
        ConfigError: a device or a dtype is named.
    """
    from trimkit.engines.export import SETTINGS, export_onnx
    from trimkit.io.reading import read_json

    if device != "cpu" or dtype not in ("auto", "float32"):
        raise ConfigError("--onnx writes a graph in float32, which any device can load: leave --device and --dtype out")
    with common.quiet():
        path = export_onnx(model, output, method=method, scorer=scorer)
    said = read_json(path / SETTINGS)
    if as_json:
        common.print_json({"path": str(path), **said})
        return
    print(f"written  {path}")
    for name, each in {**said["inputs"], **said["outputs"]}.items():
        print(f"{name:<13} {each['dtype']} [{', '.join(map(str, each['shape']))}]")
    checked = said["checked"]
    print(f"checked  {checked['engine']}: same patches as torch, embeddings within {checked['largest_difference']:.0e}")


def _loaded(model: str, output: str | None, device: str, dtype: str) -> tuple[Any, str, Any]:
    """Model, directory and processor, loaded where and as asked.

    Raises:
        ConfigError: there is no directory to write the converted weights to.
    """
    if output is None:
        raise ConfigError("--device and --dtype load the weights and save them anew: name a new directory with -o")
    loaded, processor = common.load(model, device, dtype)
    return loaded, output, processor
