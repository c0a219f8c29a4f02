"""Files of at most 300 lines, functions of at most 40: ``python tools/check_sizes.py src``, part of ``make lint``.

A function's lines are those of its body, from the first statement behind the docstring to the last. A nested function counts
by itself, and as lines of the one around it. Prints every offender, and the median length of the files; exits 1 where there
is an offender.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 300
FUNCTION_LINES = 40


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body without its docstring; 0 where there is nothing else."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def offenders(path: Path, text: str) -> Iterator[str]:
    """One line for the file if it is too long, and one for every function in it that is."""
    count = len(text.splitlines())
    if count > FILE_LINES:
        yield f"{path}: {count} lines, more than {FILE_LINES}: split it"
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and body_lines(node) > FUNCTION_LINES:
            yield f"{path}:{node.lineno}: {node.name} has {body_lines(node)} lines, more than {FUNCTION_LINES}: split it"


def main(roots: list[str]) -> int:
    """Check every Python file below ``roots``; returns the exit code."""
    files = {path: path.read_text(encoding="utf-8") for root in roots for path in sorted(Path(root).rglob("*.py"))}
    if not files:
        print(f"no Python file below {' '.join(roots) or 'nothing'}: name a directory that has some", file=sys.stderr)
        return 2
    found = [line for path, text in files.items() for line in offenders(path, text)]
    for line in found:
        print(line)
    lengths = [len(text.splitlines()) for text in files.values()]
    print(f"{len(files)} files, median {statistics.median(lengths):g} lines, longest {max(lengths)}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
