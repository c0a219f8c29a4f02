"""Run the notebooks from top to bottom: ``python tools/run_notebooks.py`` (``--save`` keeps what they print).

A cell that raises ends the run with its notebook's name. Run by ``make test-notebooks``; needs nbclient and ipykernel.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
TIMEOUT = 600  # seconds a cell
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def run(path: Path) -> Any:
    """The notebook with fresh outputs; it runs in an empty directory.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as empty:
        NotebookClient(
            notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": empty}}
        ).execute()
    return notebook


def tidy(notebook: Any) -> Any:
    """Without what differs from run to run: warnings with paths, addresses, times of cells; and without PNG beside JPEG."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if "outputs" not in cell:
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "text" in output:
                output.text = ADDRESS.sub("", output.text)
            if "image/jpeg" in output.get("data", {}):
                output.data.pop("image/png", None)
    return notebook


def main() -> int:
    """Run all notebooks, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="notebooks to run; default: all")
    parser.add_argument("--save", action="store_true", help="write the outputs into the notebooks")
    given = parser.parse_args()
    paths = [Path(name) for name in given.names] or sorted(FOLDER.glob("*.ipynb"))
    failed = 0
    for path in paths:
        started = time.monotonic()
        try:
            notebook = run(path)
        except CellExecutionError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            failed += 1
            continue
        print(f"{path.name}: ran in {time.monotonic() - started:.0f} s")
        if given.save:
            nbformat.write(tidy(notebook), path)
    print(f"{len(paths) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
