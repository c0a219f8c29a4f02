"""``trimkit language-model``: a checkpoint's language model alone, for an engine behind ``trimkit encode-server``."""

from __future__ import annotations

from typing import Annotated

import typer

from trimkit.cli import _common as common

NAME = "language-model"


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint's directory, a hub id OWNER/NAME, or 'demo'.")],
    output: Annotated[str, typer.Option("--output", "-o", help="A new directory.")],
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Write a checkpoint's language model without its vision tower.

    A text-only vLLM serves it behind 'trimkit encode-server'. Its chat template passes text through, because the encoder has
    already rendered the checkpoint's own.
    """
    from trimkit.serving.encode.language_model import save_language_model

    with common.quiet():
        path = save_language_model(model, output, dtype=dtype)
    if as_json:
        common.print_json({"path": str(path)})
        return
    print(f"written  {path}")
    print(f"serve    vllm serve {path} --enable-prompt-embeds")
