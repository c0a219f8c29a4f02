"""Links of the checkout as links of the site: relative paths become links between pages, or to the repository."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

__all__ = ["BROUGHT", "ROOT", "for_site", "target"]

ROOT = Path(__file__).resolve().parents[2]

BROUGHT = {
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "assets/leaderboard.json": "src/trimkit/eval/leaderboard.json",
}
"""Files of the checkout, outside of docs/, that are pages or data of the site."""

_PAGES = {**{source: page for page, source in BROUGHT.items()}, "README.md": "index.md"}
_COMMENT = re.compile(r"^[ ]*<!--.*?-->[ ]*\n", re.M)
_FENCE = re.compile(r"^([ ]*)(```+|~~~+).*?^\1\2[ ]*$", re.M | re.S)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def for_site(markdown: str, page: str, repository: str) -> str:
    """A page's text with links for the site. Code stays as it is.

    The marks of generated blocks go: Markdown would take a table right behind a comment for a part of it.

    Args:
        markdown: of the page, as it stands in the checkout.
        page: its place in the site, such as ``serving.md``.
        repository: address of the repository, for links to files that are no pages.

    Raises:
        LookupError: a link to a file that does not exist.
    """
    home = posixpath.dirname(BROUGHT.get(page, f"docs/{page}"))
    parts, last = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_prose(markdown[last : fence.start()], home, page, repository), fence[0]]
        last = fence.end()
    return "".join([*parts, _prose(markdown[last:], home, page, repository)])


def _prose(text: str, home: str, page: str, repository: str) -> str:
    text = _COMMENT.sub("\n", text)
    return _LINK.sub(lambda found: found[1] + target(found[2], home, page, repository) + found[3], text)


def target(link: str, home: str, page: str, repository: str) -> str:
    """The link of ``page`` to what ``link`` means in the directory ``home`` of the checkout.

    Raises:
        LookupError: there is no such file.
    """
    if "://" in link or link.startswith(("#", "mailto:")):
        return link
    path, _, anchor = link.partition("#")
    place = posixpath.normpath(posixpath.join(home, path))
    if not (ROOT / place).exists():
        raise LookupError(f"{page}: the link {link} leads to no file of the checkout")
    inside = _PAGES.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
    behind = f"#{anchor}" if anchor else ""
    if inside is None or inside.endswith(".py"):
        kind = "tree" if (ROOT / place).is_dir() else "blob"
        return f"{repository.rstrip('/')}/{kind}/main/{place}{behind}"
    return posixpath.relpath(inside, posixpath.dirname(page) or ".") + behind
