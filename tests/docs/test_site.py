"""The documentation site, as far as it can be checked without building it: navigation, links, and what it brings along."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.site.links import BROUGHT, for_site, target
from tests.docs.test_readme import ROOT

REPOSITORY = "https://example.org/owner/name"


class _Loader(yaml.SafeLoader):
    """Reads over the tags that name Python functions."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
CONFIG: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for each in (nav.values() if isinstance(nav, dict) else nav) for page in _pages(each)]


def test_every_page_is_in_the_navigation_once() -> None:
    shown = _pages(CONFIG["nav"])
    there = {path.name for path in ROOT.glob("docs/*.md")} | {page for page in BROUGHT if page.endswith(".md")}
    assert sorted(shown) == sorted(there)


@pytest.mark.parametrize("source", BROUGHT.values())
def test_what_is_brought_along_exists(source: str) -> None:
    assert (ROOT / source).is_file()


@pytest.mark.parametrize(
    ("link", "home", "page", "expected"),
    [
        ("serving.md#vllm", "docs", "index.md", "serving.md#vllm"),
        ("../CONTRIBUTING.md#set-up", "docs", "methods.md", "contributing.md#set-up"),
        ("docs/methods.md", "", "contributing.md", "methods.md"),
        ("../README.md", "docs", "faq.md", "index.md"),
        ("../docs/images/suite_ten_types.svg", "benchmarks", "benchmarks.md", "images/suite_ten_types.svg"),
        ("../src/trimkit/errors.py", "docs", "api.md", f"{REPOSITORY}/blob/main/src/trimkit/errors.py"),
        ("../deploy", "docs", "serving.md", f"{REPOSITORY}/tree/main/deploy"),
        ("generate.py", "docs", "cli.md", f"{REPOSITORY}/blob/main/docs/generate.py"),
        ("https://arxiv.org/abs/2409.10994", "docs", "index.md", "https://arxiv.org/abs/2409.10994"),
        ("#limits", "docs", "faq.md", "#limits"),
    ],
)
def test_links(link: str, home: str, page: str, expected: str) -> None:
    assert target(link, home, page, REPOSITORY) == expected


def test_a_broken_link_is_named() -> None:
    with pytest.raises(LookupError, match=r"faq\.md: the link nowhere\.md leads to no file"):
        for_site("[a](nowhere.md)", "faq.md", REPOSITORY)


def test_code_stays_and_comments_go() -> None:
    text = "<!-- table:x -->\n| a |\n\n```md\n<!-- kept -->\n[a](b.md)\n```\n[c](methods.md)\n"
    assert for_site(text, "faq.md", REPOSITORY) == "\n| a |\n\n```md\n<!-- kept -->\n[a](b.md)\n```\n[c](methods.md)\n"


def test_llms_txt_names_pages_that_exist() -> None:
    (settings,) = [each["llmstxt"] for each in CONFIG["plugins"] if isinstance(each, dict) and "llmstxt" in each]
    for entries in settings["sections"].values():
        for entry in entries:
            name = entry if isinstance(entry, str) else next(iter(entry))
            assert (ROOT / "docs" / name).is_file(), name


def test_the_api_page_names_what_exists() -> None:
    """mkdocstrings finds these by reading the source; a renamed one would only show when the site is built."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    names = [line.removeprefix("::: ") for line in page.splitlines() if line.startswith("::: ")]
    assert [name for name in names if not _exists(name)] == []


def _exists(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return False


@pytest.mark.skipif(not (ROOT / ".venv-docs" / "bin" / "python").is_file(), reason="make docs-site has not run here")
@pytest.mark.slow
def test_it_builds(tmp_path: Path) -> None:
    python = ROOT / ".venv-docs" / "bin" / "python"
    command = [str(python), "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("index.html", "llms.txt", "llms-full.txt", "leaderboard/index.html", "assets/leaderboard.json"):
        assert (tmp_path / "site" / name).is_file(), name
