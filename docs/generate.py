"""Write what the code itself knows into the docs: ``python -m docs.generate`` (``--check`` only says what is out of date).

The method, option and family tables of methods.md come from the registries, cli.md from ``--help`` of every command.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

# Before typer is imported: the width and the colours of --help must not depend on the terminal.
os.environ.update(TERMINAL_WIDTH="100", COLUMNS="100", NO_COLOR="1", TERM="dumb")
for _name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
    os.environ.pop(_name, None)

from benchmarks.blocks import ROOT, fill, pages, update  # noqa: E402
from benchmarks.cells import table  # noqa: E402
from benchmarks.records import load  # noqa: E402


def methods() -> str:
    """One row a registered method."""
    from trimkit.methods import method_classes

    rows = []
    for name, cls in method_classes():
        paper = f"[{cls.paper.rsplit('/', 1)[-1]}]({cls.paper})" if cls.paper else ""
        budget = cls.model_fields["budget"].default
        signals = ", ".join(f"`{signal}`" for signal in sorted(cls().asked_signals)) or "features"
        text, engines = ("yes" if each else "no" for each in (cls.uses_text, cls(budget=64).fits_engines))
        rows.append([f"`{name}`", cls.summary, cls.stage, text, signals, engines, f"`{budget}`", paper])
    return _text_table(
        ["method", "what it keeps", "stage", "reads the question", "needs", "in vLLM", "default budget", "source"], rows
    )


def options() -> str:
    """Every option of every method, with its default."""
    from trimkit.methods import method_classes

    rows = []
    for name, cls in method_classes():
        fields = cls.model_fields.items()
        rows.append([f"`{name}`", ", ".join(f"`{key}={_shown(field.default)}`" for key, field in fields)])
    return _text_table(["method", "options and defaults"], rows)


def models() -> str:
    """One row a family file."""
    from trimkit.models import families

    served: dict[str, list[str]] = {}
    about = {}
    for model_type, family in families():
        served.setdefault(type(family).__name__, []).append(model_type)
        about[type(family).__name__] = family
    rows = [
        [
            about[name].title,
            ", ".join("others" if kind == "*" else f"`{kind}`" for kind in kinds),
            "its own tower" if about[name].native else "an external scorer",
            "yes" if about[name].video else "no",
            "yes" if about[name].batch else "untested",
            "yes" if about[name].training else "untested",
            about[name].tested,
        ]
        for name, kinds in sorted(served.items(), key=lambda item: ("*" in item[1], item[0]))
    ]
    return _text_table(
        ["family", "`config.model_type`", "relevance from", "video", "ragged batches", "training", "tested here"], rows
    )


def matrix() -> str:
    """What the contract tests found for every model type: passed and, where not all ran, skipped or failed."""
    record = load("families")
    if record is None:
        return "*Not run yet: `make matrix`.*"
    rows = []
    for name, found in record["families"].items():
        rows.append([f"`{name}`", *[_outcome(found.get(check, {})) for check in record["checks"]]])
    note = "Passed tests; + skipped, - failed. Source: `benchmarks/results/families.json`"
    runs: dict[str, list[str]] = {}
    for name, run in record.get("measured", dict.fromkeys(record["families"], record)).items():
        packages = ", ".join(f"{key} {run['versions'][key]}" for key in ("torch", "transformers"))
        runs.setdefault(f"{run['date']}, {packages}", []).append(f"`{name}`")
    latest = max(runs, key=lambda run: len(runs[run]))
    others = [f"{', '.join(names)}: {run}" for run, names in runs.items() if run != latest]
    return f"{_text_table(['model type', *record['checks']], rows)}\n\n{'; '.join([f'{note}, {latest}', *others])}."


def architectures() -> str:
    """What became of every architecture, with the newest transformers that the sweep was run on."""
    record = load("architectures")
    if record is None:
        return "*Not run yet: `make architectures`.*"
    rows = [_architecture(row) for row in list(record["runs"].values())[-1]["architectures"]]
    lines = [_text_table(["model type", "class", "outcome", "served by, or why not"], rows)]
    for version, run in record["runs"].items():
        counts = Counter(row["result"] for row in run["architectures"])
        said = ", ".join(f"{count} {result}" for result, count in sorted(counts.items()))
        lines.append(f"transformers {version}: {len(run['architectures'])} architectures, {said} ({run['date']}).")
    return "\n\n".join([*lines, "Source: `benchmarks/results/architectures.json`."])


def _architecture(row: dict[str, Any]) -> list[str]:
    why = (
        f"`{row['family']}`" + (", decoder by hand" if row["by_hand"] else "")
        if row["result"] == "reduced"
        else row["note"]
    )
    return [f"`{row['kind']}`", f"`{row['model']}`", row["result"], why.replace("|", "\\|")]


def _outcome(counts: dict[str, int]) -> str:
    parts = [str(counts[key]) if key == "passed" else f"{sign}{counts[key]}" for key, sign in _SIGNS if counts.get(key)]
    return " ".join(parts) or "not run"


_SIGNS = (("passed", ""), ("skipped", "+"), ("failed", "-"))


def cli_page() -> str:
    """``--help`` of the command and of every command below it."""
    parts = ["# The `trimkit` command\n", "<!-- Written by `make docs` from --help: do not edit. -->\n"]
    for words, text in _help_pages():
        parts.append(f"## `{' '.join(words)}`\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _help_pages() -> Iterator[tuple[list[str], str]]:
    from typer.main import get_command
    from typer.testing import CliRunner

    from trimkit.cli import app

    runner = CliRunner()
    for words in _command_words(get_command(app), []):
        text = runner.invoke(app, [*words, "--help"]).stdout
        yield ["trimkit", *words], "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def _command_words(command: Any, words: list[str]) -> Iterator[list[str]]:
    yield words
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if not child.hidden:
            yield from _command_words(child, [*words, name])


def _text_table(header: list[str], rows: list[list[str]]) -> str:
    return table(header, rows).replace("---:", "---")


def _shown(value: Any) -> str:
    plain = value.to_plain() if hasattr(value, "to_plain") else value
    return f'"{plain}"' if isinstance(plain, str) else str(plain)


BLOCKS = {"methods": methods, "options": options, "models": models, "matrix": matrix, "architectures": architectures}


def main() -> int:
    """Fill the ``generated:`` blocks and write cli.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a page is out of date")
    check = parser.parse_args().check
    cli = ROOT / "docs" / "cli.md"
    filled = [(page, fill(page.read_text(encoding="utf-8"), BLOCKS, "generated")) for page in pages() if page != cli]
    return update([*filled, (cli, cli_page())], check=check, remedy="make docs")


if __name__ == "__main__":
    sys.exit(main())
