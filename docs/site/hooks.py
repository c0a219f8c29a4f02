"""Hooks of the documentation site: pages from outside of docs/, and links that work there. See links.py."""

from __future__ import annotations

from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from docs.site.links import BROUGHT, ROOT, for_site

WIDE = {"leaderboard.md"}
"""Pages whose table needs the whole width."""


def on_files(files: Any, config: Any) -> Any:
    """Add what lies outside of docs/."""
    for page, source in BROUGHT.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links for the site. A broken one stops the build."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["navigation", "toc"]
    try:
        return for_site(markdown, page.file.src_uri, config["repo_url"])
    except LookupError as error:
        raise PluginError(str(error)) from None
