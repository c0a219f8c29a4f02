"""``trimkit demo``: a page in the browser that shows what a method keeps, and what that does to the answer."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from trimkit.cli import _common as common
from trimkit.cli._extras import needing_extra
from trimkit.io.text import one_line

NAME = "demo"


def command(
    model: common.ModelOption = "demo",
    scorer: common.ScorerOption = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 7860,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in your browser.")] = False,
    max_new_tokens: common.MaxNewTokensOption = 64,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
) -> None:
    """Show a page where you drop a picture, ask, and see which image tokens are kept.

    The page has a slider for the budget, a list of methods, answers of the full and the reduced model side by side, four
    methods in a grid, a conversation, and what it costs. The model is loaded when the page is first opened. The page needs
    the extra: pip install 'trimkit[demo]'.
    """
    from trimkit.loading import find_checkpoint, pick_device

    pick_device(device)
    if model != "demo":  # the packaged one is there, and looking takes seconds
        find_checkpoint(model)
    with needing_extra("the page", "demo"):
        from trimkit.web.server import serve_page
    from trimkit.web.model import LazyModel

    lazy = LazyModel(model, device, dtype, scorer, max_new_tokens)

    def ready(url: str) -> None:
        print(f"showing {one_line(model)} at {url} (stop with Ctrl+C)", file=sys.stderr, flush=True)

    with common.quiet():
        serve_page(lazy, host, port, browser=browser, ready=ready)
