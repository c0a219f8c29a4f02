"""The page by axe's rules at both widths, in light and dark; by keyboard alone; no sideways scrolling on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.web.browser import Page, Server

pytestmark = pytest.mark.slow

TABS = ("Ask", "Compare methods", "Conversation", "What does it cost me")
SHARE = 0.95  # of axe's rules that apply


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe(browser: Any, server: Server, screenshots: Path, width: int, scheme: str) -> None:
    page = Page(browser, server.url, viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.drawn()
    page.tab.click("#tk-ask")
    page.done("#tk-full")
    for number, title in enumerate(TABS):
        _open(page, title)
        if title == TABS[-1]:
            page.tab.wait_for_selector("#tk-cost table")
        page.tab.screenshot(path=screenshots / f"{number}-{width}-{scheme}.png", full_page=True)
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page.tab).response
        faults = [f"{each['impact']} {each['id']}: {each['nodes'][0]['html'][:160]}" for each in found["violations"]]
        assert [fault for fault in faults if fault.startswith(("serious", "critical"))] == [], title
        assert len(found["passes"]) / (len(found["passes"]) + len(faults)) >= SHARE, faults
    page.close()


def test_by_keyboard(page: Page) -> None:
    page.drawn()
    page.tab.focus("#tk-ask")
    page.tab.keyboard.press("Enter")
    page.done("#tk-full")
    reached = set()
    page.tab.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    for _ in range(40):
        page.tab.keyboard.press("Tab")
        reached.add(page.tab.evaluate("(document.activeElement.closest('[id^=tk-]') || {}).id || ''"))
    assert {"tk-question", "tk-method", "tk-own", "tk-share", "tk-ask", "tk-download"} <= reached


def _open(page: Page, title: str) -> None:
    """A tab; on a phone some are behind a menu."""
    tab = page.tab.get_by_role("tab", name=title)
    if not tab.is_visible():
        page.tab.locator(".overflow-menu > button").click()
        page.tab.locator(".overflow-dropdown button", has_text=title).click()
        return
    tab.click()
