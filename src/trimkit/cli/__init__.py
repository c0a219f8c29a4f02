"""The ``trimkit`` command. One file a command; every error is one line on stderr, exit code 2 where the user can mend it.

A module of this package without a leading underscore is a command: ``NAME`` ("ask", or "eval scenes" below a group) and
``command``, a function that typer reads. Nothing else names it.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import pkgutil
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from trimkit.cli import _streams as streams
from trimkit.errors import TrimkitError
from trimkit.io.text import one_line, shorten

__all__ = ["app", "main", "run"]

_GROUPS = {"eval": "Measure what fewer tokens cost in accuracy."}

# Arguments of the library that the commands have as options: messages name them as the user can write them.
_OPTIONS = (
    "scorer|method|budget|config|positions|turns|tower_keep|tower_layer|vision_engine|device|dtype|batch_size|"
    "max_new_tokens"
)
_ARGUMENT = re.compile(rf"\b({_OPTIONS})=(?=[\s,;:.)]|$)")


def _show_version(wanted: bool) -> None:
    if wanted:
        from trimkit.version import __version__

        print(f"trimkit {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; put it before the command.")
    ] = False,
) -> None:
    """Make vision-language models faster by giving them fewer image tokens."""
    _show_help(context)


def _show_help(context: typer.Context) -> None:
    """A group without a command prints its help, which is no error."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def _build() -> typer.Typer:
    """The app with every command file of this package."""
    settings: dict[str, Any] = {
        "pretty_exceptions_enable": False,
        "rich_markup_mode": None,
        "invoke_without_command": True,
        "context_settings": {"help_option_names": ["-h", "--help"]},
    }
    root = typer.Typer(name="trimkit", callback=_root, **settings)
    groups: dict[str, typer.Typer] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        group, _, name = module.NAME.rpartition(" ")
        parent = root
        if group:
            if group not in groups:
                groups[group] = typer.Typer(name=group, help=_GROUPS[group], callback=_show_help, **settings)
                root.add_typer(groups[group])
            parent = groups[group]
        parent.command(name, context_settings=settings["context_settings"])(module.command)
    return root


app = _build()


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code.

    0; 2 for an error of use; 130 when interrupted; 143 when terminated; 1 for a defect.
    """
    given = list(arguments)
    debug = "--debug" in itertools.takewhile(lambda word: word.startswith("-"), given)
    try:
        with warnings.catch_warnings(), streams.printable(), streams.terminable():
            warnings.showwarning = _warn
            try:
                result = app(args=given, prog_name="trimkit", standalone_mode=False)
            finally:
                streams.flush()  # here a closed pipe, or a full disk behind it, can still be answered
        if result == 130:  # typer has met an interrupt, and says nothing
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except (streams.Interrupted, KeyboardInterrupt, typer.Abort):
        _complain("interrupted")
        return 130
    except streams.Terminated:
        _complain("terminated")
        return 143
    except SystemExit as stop:  # how completion ends
        return 2 if stop.code else 0
    except BrokenPipeError:
        return streams.reader_gone()
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explain(error)


def main() -> None:
    """Entry point of the ``trimkit`` script."""
    streams.open_missing()
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # between two of our own handlers
        code = 130
    streams.leave(code)


def _explain(error: Exception) -> int:
    """Print an error as one line; 2 for what the user can mend."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's usage errors, whichever click it has
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "trimkit"
        _complain(f"{error.format_message().rstrip('.')}. See '{path} --help'.")
        return 2
    if isinstance(error, TrimkitError):
        _complain(_ARGUMENT.sub(lambda found: "--" + found[1].replace("_", "-"), str(error)))
        return 2
    if isinstance(error, streams.OutputError):
        _complain(f"cannot print the result ({error}): free space there, or send it elsewhere")
        return 2
    if _is_out_of_memory(error):
        _complain("out of memory: use a smaller picture, batch or model")
        return 2
    if isinstance(error, OSError):  # a full disk, a directory for temporary files that is gone, ...
        _complain(f"the system refuses ({error.strerror or error}): check the disk's space and the permissions")
        return 2
    _complain(f"unexpected {type(error).__name__}: {error}; 'trimkit --debug ...' shows where")
    return 1


def _is_out_of_memory(error: Exception) -> bool:
    """Python's, the CUDA allocator's, and the CPU allocator's, which torch raises as a RuntimeError."""
    text = str(error)
    return (
        isinstance(error, MemoryError) or "CUDA out of memory" in text or "DefaultCPUAllocator: can't allocate" in text
    )


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning is one line, too."""
    _complain(str(message))


def _complain(message: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody may be there to read it
        print(f"trimkit: {one_line(shorten(message))}", file=sys.stderr, flush=True)
