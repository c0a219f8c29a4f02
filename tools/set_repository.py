"""Put the repository's address everywhere it stands: ``python tools/set_repository.py OWNER/NAME``.

The address stands in pyproject.toml, mkdocs.yml, the notebooks, their page, and the issue forms. ``--check OWNER/NAME`` changes
nothing and ends with 1 where another one stands; the release workflow runs it. Uses the standard library alone.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("pyproject.toml", "mkdocs.yml", "docs/*.md", "notebooks/*.ipynb", ".github/**/*.yml")


def current() -> str:
    """``OWNER/NAME`` as pyproject.toml has it."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    return str(urls["Repository"].removeprefix("https://github.com/"))


def replaced(text: str, old: str, new: str) -> str:
    """``text`` with the addresses of the repository, of its raw files, of Colab and of its pages changed."""
    (old_owner, old_name), (owner, name) = old.split("/"), new.split("/")
    for host in ("github.com", "raw.githubusercontent.com", "colab.research.google.com/github"):
        text = re.sub(rf"\b{re.escape(host)}/{re.escape(old)}\b", f"{host}/{new}", text)
    return text.replace(f"https://{old_owner}.github.io/{old_name}/", f"https://{owner}.github.io/{name}/")


def main() -> int:
    """Change the address, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", metavar="OWNER/NAME")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where pyproject.toml has another")
    given = parser.parse_args()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", given.repository):
        parser.error(f"{given.repository!r} is not OWNER/NAME")
    if given.check:
        if given.repository != current():
            print(
                f"pyproject.toml has {current()}, not {given.repository}: run tools/set_repository.py {given.repository}"
            )
        return int(given.repository != current())
    old = current()
    for path in sorted({path for place in PLACES for path in ROOT.glob(place)}):
        text = path.read_text(encoding="utf-8")
        if (new := replaced(text, old, given.repository)) != text:
            path.write_text(new, encoding="utf-8")
            print(f"changed {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
