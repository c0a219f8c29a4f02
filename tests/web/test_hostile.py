"""What goes wrong is a message in the page; and two users do not get in each other's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.web.browser import Page, Server

pytestmark = pytest.mark.slow


def test_a_broken_file(page: Page, server: Server, tmp_path: Path) -> None:
    page.drawn()
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"no picture at all" * 50)
    page.upload(path)
    text = page.message("alert")
    assert "broken.png" in text
    assert "not an image, or damaged" in text
    assert "/" not in text  # no path of the server's
    assert "Traceback" not in server.said()
    page.tab.wait_for_selector("#tk-preview figcaption >> text=scene1")  # what was there stays
    page.tab.wait_for_timeout(2000)  # the choice is drawn anew, and takes the message with it no more
    assert page.message("alert") == text


def test_a_file_that_is_no_picture(page: Page, tmp_path: Path) -> None:
    page.drawn()
    path = tmp_path / "letter.txt"
    path.write_text("Dear page")
    page.upload(path)
    page.tab.wait_for_selector("text=/invalid file type/i")
    assert "Traceback" not in page.tab.inner_text("body")


def test_forty_megapixels(page: Page, tmp_path: Path) -> None:
    page.drawn()
    path = tmp_path / "large.jpg"
    Image.linear_gradient("L").resize((8000, 5000)).convert("RGB").save(path)
    page.upload(path)
    page.tab.wait_for_selector("#tk-preview figcaption >> text=large.jpg")
    assert "8,000 × 5,000 pixels (40 million)" in page.message("note")
    assert "scaled down to" in page.message("note")


def test_questions_that_cannot_be_asked(page: Page, server: Server) -> None:
    page.drawn()
    for question, told in ((" ", "the question is empty"), ("<image> what?", "placeholder")):
        page.tab.fill("#tk-question textarea, #tk-question input", question)
        page.tab.click("#tk-ask")
        page.tab.wait_for_selector(f"#tk-message .tk-alert >> text={told}")
    assert "Traceback" not in server.said()


def test_text_is_shown_as_text(page: Page) -> None:
    page.drawn()
    page.open_tab("Conversation")
    line = "{{7*7}} ${7*7} <img src=x onerror=alert(1)> is there a fox?"
    page.tab.fill("#tk-line textarea, #tk-line input", line)
    page.tab.press("#tk-line textarea, #tk-line input", "Enter")
    page.tab.wait_for_selector("#tk-chat-kept img")
    shown = page.tab.inner_text("#tk-chat")
    assert "{{7*7}} ${7*7}" in shown
    assert page.tab.locator("#tk-chat img[onerror]").count() == 0


def test_two_users_at_once(browser: Any, server: Server) -> None:
    users = [Page(browser, server.url, f"?sample={name}") for name in ("scene1", "scene2")]
    for user in users:
        user.drawn()
    for user in users:
        user.tab.click("#tk-ask")
    answers = [(user.done("#tk-reduced"), user.done("#tk-full")) for user in users]
    assert all("image tokens" in text for pair in answers for text in pair)
    captions = [user.tab.inner_text("#tk-preview figcaption") for user in users]
    assert captions == ["sample scene1", "sample scene2"]
    for user in users:
        user.close()
        assert user.faults == []
    assert "Traceback" not in server.said()
