"""``trimkit demo`` where it cannot start: one line, before anything is loaded."""

from __future__ import annotations

import sys

import pytest

from tests.cli.conftest import Cli
from tests.cli.test_errors import assert_one_line


def test_without_gradio_the_extra_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "trimkit.web.server", raising=False)
    outcome = cli("demo")
    assert_one_line(outcome, "pip install 'trimkit[demo]'")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model", "no/such/place"), "no/such/place"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--port", "70000"), "65535"),
    ],
)
def test_bad_options(cli: Cli, words: tuple[str, ...], told: str) -> None:
    assert_one_line(cli("demo", *words), told)
