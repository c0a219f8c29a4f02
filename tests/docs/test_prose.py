"""The prose linter finds what it should and nothing in code; and README and docs pass the house's rules."""

from __future__ import annotations

import importlib.util

import pytest

from tests.docs.test_readme import ROOT

_SPEC = importlib.util.spec_from_file_location("prose", ROOT / "tools" / "prose.py")
assert _SPEC is not None
assert _SPEC.loader is not None
prose = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(prose)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The colour is red.", "US spelling: 'colour' is 'color'"),
        ("No figure says anything.", "say what was not measured"),
        ("The sign is to be measured.", "say who does it: 'you set', 'must be', 'will be'"),
        ("It keeps 79 % of them.", "write 79%, without a space"),
        (" ".join(["word"] * 45) + ".", "a sentence of 45 words"),
        ("It is done by us. It was kept by us. " * 12, "are passive"),
    ],
)
def test_what_is_found(text: str, said: str) -> None:
    assert any(said in advice for _, advice in prose.house(prose.prose_of(text)))


def test_code_tables_of_results_and_addresses_are_no_prose() -> None:
    text = (
        "`colour`\n\n```py\ncolour = 1\n```\n\n<!-- table:x -->\n| 79 % colour |\n<!-- /table:x -->\n\n"
        "[here](docs/colour.md), https://example.org/colour <!-- colour -->\n"
    )
    assert list(prose.house(prose.prose_of(text))) == []
    assert prose.prose_of(text).count("\n") == text.count("\n")


@pytest.mark.parametrize("page", prose.PAGES)
def test_pages_pass(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = list(prose.house(prose.prose_of(text), history=page in prose.STYLE["history"]))
    assert [f"line {prose.prose_of(text).count(chr(10), 0, at) + 1}: {advice}" for at, advice in found] == []


def test_readme_is_short_and_its_first_screen_has_what_counts() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    first = "\n".join(lines[:50])
    for what in (
        "docs/images/overlay.png",
        "pip install",
        "make demo",
        "make test",
        "trimkit.reduce(",
        "<!-- table:home -->",
    ):
        assert what in first
