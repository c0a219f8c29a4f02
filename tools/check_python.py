"""What of an installed trimkit works on this Python without torch: every file compiles, the light commands run.

Run by ``make test-pythons`` in an environment that has no torch. Ends with 1 where something fails.
"""

from __future__ import annotations

import compileall
import subprocess
import sys
from importlib.metadata import metadata, requires, version
from pathlib import Path

import trimkit

COMMANDS = (["--version"], ["--help"], ["leaderboard", "--top", "3"], ["leaderboard", "--json"], ["ask", "--help"])


def main() -> int:
    """Compile, read the metadata, run the commands."""
    folder = Path(trimkit.__file__).parent
    if not compileall.compile_dir(folder, quiet=1, force=True):
        return 1
    if version("trimkit") != trimkit.__version__ or not requires("trimkit"):
        print("the metadata does not agree with the package")
        return 1
    minor = f"Programming Language :: Python :: 3.{sys.version_info.minor}"
    if minor not in (metadata("trimkit").get_all("Classifier") or []):
        print(f"no classifier {minor}")
        return 1
    for arguments in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "trimkit", *arguments], capture_output=True, text=True
        )
        if done.returncode or not done.stdout:
            print(f"trimkit {' '.join(arguments)}: exit code {done.returncode}: {done.stderr}")
            return 1
    files = len(list(folder.rglob("*.py")))
    print(
        f"Python {sys.version.split()[0]}: {files} files compile, {len(COMMANDS)} commands run; nothing with torch was tried"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
