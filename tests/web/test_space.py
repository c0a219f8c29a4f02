"""The files of `spaces/` run as they are, as a Hugging Face Space runs them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.web.browser import Page, serving

pytestmark = pytest.mark.slow

APP = Path(__file__).resolve().parents[2] / "spaces" / "app.py"


def test_the_space_shows_the_page(browser: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = str(found.getsockname()[1])
    with serving(tmp_path / "log.txt", str(APP), GRADIO_SERVER_PORT=port) as server:
        page = Page(browser, server.url)
        page.drawn()
        assert "image tokens kept" in page.count()
        page.close()
        assert page.faults == []
