"""Starts the page, and waits until it is stopped."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

from trimkit.errors import ConfigError
from trimkit.web.model import LazyModel
from trimkit.web.page import build_page, launch_options

__all__ = ["serve_page", "start_page"]


def start_page(
    model: LazyModel, host: str, port: int, *, browser: bool = False, ready: Callable[[str], None] | None = None
) -> Any:
    """Serve the page in threads of its own; ``page.close()`` ends it.

    Args:
        model: what answers.
        host, port: where to listen; port 0 takes a free one.
        browser: whether to open the page in the desktop's browser.
        ready: is called with the address once the page can be opened.

    Returns:
        The ``gr.Blocks`` that is served.

    Raises:
        ConfigError: the place is taken, or cannot be listened at.
    """
    found = port or _free_port(host)
    _check_free(host, found)
    page = build_page(model)
    _, url, _ = page.launch(
        server_name=host, server_port=found, inbrowser=browser, quiet=True, prevent_thread_lock=True, **launch_options()
    )
    if ready is not None:
        ready(url)
    return page


def serve_page(
    model: LazyModel, host: str, port: int, *, browser: bool = False, ready: Callable[[str], None] | None = None
) -> None:
    """``start_page``, and wait until the process is interrupted or terminated."""
    page = start_page(model, host, port, browser=browser, ready=ready)
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)


def _check_free(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            return
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}:{port} ({error.strerror or error}): give another --port, or --host"
        ) from None


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as found:
        return int(found.getsockname()[1])
