"""These tests start the real page and click through it in Chromium; ``make test-web`` runs them where both are."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if any(importlib.util.find_spec(name) is None for name in ("gradio", "playwright")):
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.web.browser import Page, Server, chromium, serving

    @pytest.fixture(scope="session")
    def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        with serving(tmp_path_factory.mktemp("server") / "stderr.txt") as found:
            yield found

    @pytest.fixture(scope="session")
    def browser() -> Iterator[Any]:
        with chromium() as found:
            yield found

    @pytest.fixture
    def page(browser: Any, server: Server) -> Iterator[Page]:
        """A fresh session at desk width, open and drawn; it must leave no error in the console."""
        opened = Page(browser, server.url)
        yield opened
        opened.close()
        assert opened.faults == []

    @pytest.fixture(scope="session")
    def screenshots() -> Path:
        folder = Path(__file__).resolve().parents[2] / "out" / "web"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
