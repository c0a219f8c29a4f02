"""The page's server in a process of its own, and a browser on it that does what a user does."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PATIENCE = 90_000  # ms: for busy machines; nothing waits that long by itself
DONE = "section[aria-busy=false] >> text=FLOPs"


@dataclass(frozen=True)
class Server:
    """Where the page is, what its process has written, and seconds from the command to the address."""

    url: str
    log: Path
    seconds: float

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


@contextlib.contextmanager
def serving(log: Path, *words: str, **variables: str) -> Iterator[Server]:
    """``trimkit demo --port 0``, or other ``words`` of Python with ``variables`` set, until the block ends."""
    began = time.monotonic()
    command = [sys.executable, *(words or ("-m", "trimkit", "demo", "--port", "0"))]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **variables}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        try:
            yield Server(_address(process, log), log, time.monotonic() - began)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(process: Any, log: Path) -> str:
    for _ in range(1200):
        found = re.search(r"http://[\w.]+:\d+", log.read_text(encoding="utf-8"))
        if found:
            return found[0]
        assert process.poll() is None, log.read_text(encoding="utf-8")
        time.sleep(0.1)
    raise AssertionError("the page has not started in two minutes")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """The system's Chromium without a window; CHROMIUM names another one."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "there is no Chromium: apt-get install chromium, or set CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


class Page:
    """One user's session: ``tab`` is Playwright's page.

    Args:
        browser: Playwright's.
        url: of the page.
        query: a permalink's, with the question mark.
        options: of the browser context: width, dark mode ...
    """

    def __init__(self, browser: Any, url: str, query: str = "", **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        self.context.set_default_timeout(PATIENCE)
        self.tab = self.context.new_page()
        self.faults: list[str] = []
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.goto(url + query)
        self.tab.wait_for_selector("#tk-preview img")

    def drawn(self) -> None:
        """Wait for the kept patches."""
        self.tab.wait_for_selector("#tk-figures img")

    def count(self) -> str:
        """What the page says of the kept tokens."""
        return str(self.tab.inner_text("#tk-figures .tk-count"))

    def count_after(self, before: str) -> str:
        """The same, once it says something else."""
        self.tab.wait_for_function(
            "before => { const p = document.querySelector('#tk-figures .tk-count'); return p && p.innerText !== before }",
            arg=before,
        )
        return self.count()

    def done(self, place: str) -> str:
        """The text of an answer that is complete."""
        self.tab.wait_for_selector(f"{place} {DONE}")
        return str(self.tab.inner_text(place))

    def message(self, kind: str) -> str:
        """The text of an ``alert`` or a ``note`` above the tabs."""
        return str(self.tab.locator(f"#tk-message .tk-{kind}").inner_text())

    def open_tab(self, title: str) -> None:
        self.tab.get_by_role("tab", name=title).click()

    def pick(self, place: str, name: str) -> None:
        """A name in a list, by keyboard."""
        field = self.tab.locator(f"{place} input")
        field.fill(name)
        field.press("Enter")

    def upload(self, path: Path) -> None:
        self.tab.set_input_files("#tk-upload input[type=file]", str(path))

    def close(self) -> None:
        self.context.close()
