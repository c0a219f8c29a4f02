"""``trimkit export``: a checkpoint that reduces under plain transformers."""

from __future__ import annotations

from typing import Annotated

import typer

from trimkit.cli import _common as common

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
    scorer: Annotated[
        str | None,
        typer.Option("--scorer", help="A CLIP or SigLIP, directory or hub id.", show_default="the checkpoint's own"),
    ] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Write a checkpoint that plain transformers reduces.

    It needs trimkit installed, and trust_remote_code=True in from_pretrained; without that it is the checkpoint it was.
    """
    from trimkit.attach.export import export

    chosen = common.pick_method(method, budget, settings, config)
    with common.quiet():
        path = export(model, output, method=chosen, scorer=scorer)
    if as_json:
        common.print_json({"path": str(path), "reduce": {"method": chosen.name, **chosen.model_dump(mode="json")}})
        return
    print(f"written  {path}")
    print("load     AutoModelForImageTextToText.from_pretrained(PATH, trust_remote_code=True)")
