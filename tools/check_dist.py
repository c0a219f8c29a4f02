"""Check what is to be published: ``python tools/check_dist.py DIRECTORY`` with one wheel and one sdist in it.

The wheel has the package with its data and nothing else, and is at most 25 MB. Both have the version, the license and the
notice. Uses the standard library alone.
"""

from __future__ import annotations

import email
import re
import sys
import tarfile
import zipfile
from pathlib import Path

LIMIT = 25_000_000
NEEDED = (
    "trimkit/__init__.py",
    "trimkit/py.typed",
    "trimkit/demo/model/model.safetensors",
    "trimkit/demo/model/clip/config.json",
    "trimkit/demo/samples/samples.json",
    "trimkit/eval/leaderboard.json",
)
SUFFIXES = frozenset({".py", ".typed", ".json", ".safetensors", ".png", ".jinja", ".md", ".css", ".js"})
SDIST_NEEDED = (
    "LICENSE",
    "NOTICE",
    "README.md",
    "CHANGELOG.md",
    "pyproject.toml",
    "tests/conftest.py",
    "docs/index.md",
)
FOREIGN = re.compile(r"(^|/)(__pycache__|\.venv[^/]*|\.git|\.cache|out|node_modules)(/|$)|\.pyc$|\.partial")


def check_wheel(path: Path) -> list[str]:
    """What is wrong with the wheel, one line each."""
    wrong = (
        [] if path.stat().st_size <= LIMIT else [f"{path.name} has {path.stat().st_size:,} bytes: at most {LIMIT:,}"]
    )
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        about = email.message_from_bytes(wheel.read(metadata))
    inside = [name for name in names if ".dist-info/" not in name]
    wrong += [f"the wheel lacks {name}" for name in NEEDED if name not in names]
    wrong += [f"the wheel has {name}" for name in inside if not name.startswith("trimkit/") or FOREIGN.search(name)]
    wrong += [f"{name}: no file of that kind belongs here" for name in inside if Path(name).suffix not in SUFFIXES]
    licenses = [name for name in names if name.endswith(("licenses/LICENSE", "licenses/NOTICE"))]
    wrong += [] if len(licenses) == 2 else ["LICENSE and NOTICE are not both in the wheel"]
    return wrong + check_metadata(about)


def check_metadata(about: email.message.Message) -> list[str]:
    """Classifiers for every Python, addresses, and a description without relative links."""
    classifiers, wrong = about.get_all("Classifier") or [], []
    for minor in (11, 12, 13, 14):
        if f"Programming Language :: Python :: 3.{minor}" not in classifiers:
            wrong.append(f"no classifier for Python 3.{minor}")
    addresses = {line.partition(",")[0] for line in about.get_all("Project-URL") or []}
    wrong += [
        f"no address {name}" for name in ("Documentation", "Repository", "Issues", "Changelog") if name not in addresses
    ]
    text = str(about.get_payload())
    wrong += [
        f"the description has the relative link {link}"
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if "://" not in link
    ]
    return wrong


def check_sdist(path: Path) -> list[str]:
    """What is wrong with the sdist, one line each."""
    with tarfile.open(path) as sdist:
        names = [name.partition("/")[2] for name in sdist.getnames()]
    wrong = [f"the sdist lacks {name}" for name in SDIST_NEEDED if name not in names]
    return wrong + [f"the sdist has {name}" for name in names if FOREIGN.search(name)]


def main() -> int:
    """Check the one wheel and the one sdist of a directory."""
    folder = Path(sys.argv[1])
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        print(f"{folder}: expected one wheel and one sdist, found {len(wheels)} and {len(sdists)}")
        return 1
    wrong = check_wheel(wheels[0]) + check_sdist(sdists[0])
    print(
        *wrong
        or [f"{wheels[0].name}: {wheels[0].stat().st_size / 1e6:.1f} MB, contents and metadata as they should be"],
        sep="\n",
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
