"""No bar of a library is drawn while trimkit loads something, and the user's own settings are as they were."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils import disable_progress_bars
from transformers.utils import logging

from tests import tiny
from tests.unit.test_scorer import _tokenizer
from trimkit.cli._common import load
from trimkit.demo import load_demo
from trimkit.io.progress import without_progress_bars
from trimkit.scorers import load_scorer

_groups = importlib.import_module("huggingface_hub.utils.tqdm").progress_bar_states


@pytest.fixture(autouse=True)
def _bars() -> Iterator[None]:
    """Drawn, but for a group that the user has switched off."""
    before, groups = logging.is_progress_bar_enabled(), dict(_groups)
    logging.enable_progress_bar()
    disable_progress_bars("users.own")
    yield
    if not before:
        logging.disable_progress_bar()
    _groups.clear()
    _groups.update(groups)


def _state() -> tuple[bool, dict[str, bool]]:
    return logging.is_progress_bar_enabled(), dict(_groups)


def test_loading_draws_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny.clip().save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    capfd.readouterr()
    before = _state()
    load_scorer(tmp_path)
    load_scorer(tmp_path, tower=tiny._vision())
    load_demo()
    assert capfd.readouterr() == ("", "")
    assert _state() == before
    assert before[0]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_command_says_what_is_loading(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    load("demo", "cpu", "auto")
    out, err = capsys.readouterr()
    assert out == ""
    assert ("loading demo" in err) if terminal else err == ""


def test_the_last_to_leave_restores() -> None:
    before, entered, leave = _state(), threading.Event(), threading.Event()

    def other() -> None:
        with without_progress_bars():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with without_progress_bars():
        thread.start()
        entered.wait()
        assert not logging.is_progress_bar_enabled()
    assert not logging.is_progress_bar_enabled()
    leave.set()
    thread.join()
    assert _state() == before


def test_what_the_user_has_switched_off_stays_off() -> None:
    logging.disable_progress_bar()
    before = _state()
    with without_progress_bars():
        pass
    assert _state() == before
    assert not logging.is_progress_bar_enabled()


def test_an_error_restores() -> None:
    before = _state()
    with pytest.raises(ValueError, match="no"), without_progress_bars():
        raise ValueError("no")
    assert _state() == before
