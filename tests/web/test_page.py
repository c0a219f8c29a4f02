"""The page in a browser: upload, ask, slider, methods, comparison, conversation, permalink, download."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.web.browser import Page, Server

pytestmark = pytest.mark.slow


def small_picture(folder: Path) -> Path:
    path = folder / "mine.png"
    Image.effect_noise((200, 160), 80).convert("RGB").save(path)
    return path


def test_the_first_sight(page: Page) -> None:
    page.drawn()
    assert re.match(r"\d+ of 576 image tokens kept", page.count())
    alternative = page.tab.locator("#tk-figures img").first.get_attribute("alt")
    assert "image tokens kept" in alternative
    assert page.tab.locator("img:not([alt])").count() == 0


def test_upload_and_ask(page: Page, tmp_path: Path) -> None:
    page.drawn()
    before = page.count()
    page.upload(small_picture(tmp_path))
    page.tab.wait_for_selector("#tk-preview figcaption >> text=mine.png")
    page.count_after(before)
    assert "not photographs" in page.message("note")
    page.tab.fill("#tk-question textarea, #tk-question input", "What color is the disc?")
    page.tab.click("#tk-ask")
    reduced, full = page.done("#tk-reduced"), page.done("#tk-full")
    for text in (reduced, full):
        for word in ("image tokens", "first token", "whole answer", "FLOPs"):
            assert word in text
    assert "576 of 576" in full
    assert "576 of 576" not in reduced
    page.tab.wait_for_selector("#tk-reduced >> text=speed-up")


def test_the_sample_is_answered(page: Page) -> None:
    page.drawn()
    page.tab.get_by_role("button", name="scene2").click()
    page.tab.wait_for_selector("#tk-preview figcaption >> text=scene2")
    page.tab.click("#tk-ask")
    assert page.done("#tk-full").splitlines()[2].strip()


def test_slider_and_method(page: Page) -> None:
    page.drawn()
    before = page.count()
    slider = page.tab.locator("#tk-share input[type=range]")
    slider.focus()
    slider.press("ArrowRight")
    fixed = page.count_after(before)
    assert "(21%)" in fixed
    assert not page.tab.locator("#tk-own input").is_checked()
    page.pick("#tk-method", "focus")
    assert "by focus" in page.count_after(fixed)
    assert "share=21" in page.tab.url
    assert "method=focus" in page.tab.url


def test_a_method_inside_the_language_model_is_drawn_after_the_answer(page: Page) -> None:
    page.drawn()
    page.pick("#tk-method", "fastv")
    page.tab.wait_for_selector("#tk-figures >> text=Press Ask")
    page.tab.click("#tk-ask")
    page.done("#tk-full")
    assert "by fastv" in page.count()


def test_compare_four(page: Page, screenshots: Path) -> None:
    page.drawn()
    page.open_tab("Compare methods")
    page.tab.click("#tk-compare")
    texts = [page.done(f"#tk-cell-{number}") for number in (1, 2, 3, 4)]
    assert all("image tokens" in text for text in texts)
    assert page.tab.locator("#tk-cell-4 img").count() == 1
    page.tab.screenshot(path=screenshots / "compare-1440.png", full_page=True)


def test_conversation(page: Page, screenshots: Path) -> None:
    page.drawn()
    page.open_tab("Conversation")
    for number, question in enumerate(("What color is the disc of the fox?", "Is there a clock?"), start=1):
        page.tab.fill("#tk-line textarea, #tk-line input", question)
        page.tab.press("#tk-line textarea, #tk-line input", "Enter")
        page.tab.wait_for_function(
            f"document.querySelectorAll('#tk-chat .message.bot, #tk-chat .bot.message').length >= {number}"
        )
        page.tab.wait_for_selector("#tk-chat-kept img")
        page.tab.wait_for_function("!document.querySelector('#tk-chat').innerText.includes('…')")
    assert question in page.tab.inner_text("#tk-chat")
    page.tab.screenshot(path=screenshots / "conversation-1440.png", full_page=True)


def test_what_it_costs(page: Page, screenshots: Path) -> None:
    page.open_tab("What does it cost me")
    page.tab.wait_for_selector("#tk-cost table")
    before = page.tab.inner_text("#tk-cost")
    page.pick("#tk-cost-device", "NVIDIA L4")
    page.tab.wait_for_function("before => document.querySelector('#tk-cost').innerText !== before", arg=before)
    assert "speed-up" in page.tab.inner_text("#tk-cost")
    assert "bench_claim.json" in page.tab.inner_text("#tk-measured")
    page.tab.screenshot(path=screenshots / "cost-1440.png", full_page=True)


def test_a_link_opens_the_page_as_it_was(browser: Any, server: Server) -> None:
    page = Page(browser, server.url, "?sample=scene3&method=divprune&share=35&tab=ask&question=Is+there+a+fox%3F")
    page.drawn()
    assert "(35%) by divprune" in page.count()
    assert page.tab.input_value("#tk-question textarea, #tk-question input") == "Is there a fox?"
    page.close()
    page = Page(browser, server.url, "?method=nothing&share=900&tab=cost")
    page.tab.wait_for_selector("#tk-cost", state="visible")
    assert "nothing" in page.message("note")
    page.close()


def test_download_of_the_overlay(page: Page, tmp_path: Path) -> None:
    page.drawn()
    with page.tab.expect_download() as found:
        page.tab.click("#tk-download")
    found.value.save_as(tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as picture:
        assert picture.width > 900
