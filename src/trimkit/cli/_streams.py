"""The process around a command: its standard streams, whatever they are connected to, and the signals that end it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = [
    "Interrupted",
    "OutputError",
    "Terminated",
    "flush",
    "leave",
    "open_missing",
    "printable",
    "reader_gone",
    "terminable",
]


class Terminated(BaseException):
    """SIGTERM came: raised where the program is, so that all that is open gets closed and half-written things removed."""


class Interrupted(BaseException):
    """Ctrl-C came; not a KeyboardInterrupt, for which typer prints an empty line of its own."""


class OutputError(Exception):
    """Standard output takes no more; the text says why."""


def open_missing() -> None:
    """Connect streams that the caller has closed (``>&-``) to nothing: the next file opened would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


@contextlib.contextmanager
def printable() -> Iterator[None]:
    """Let letters that the terminal's encoding does not have be escaped, not fail; as before afterwards."""
    stream: Any = sys.stdout
    before = getattr(stream, "errors", None)
    can = before == "strict" and hasattr(stream, "reconfigure")
    if can:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        if can:
            with contextlib.suppress(OSError, ValueError):  # it flushes, which may fail as printing did
                stream.reconfigure(errors=before)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into ``Terminated`` and SIGINT into ``Interrupted``; as before afterwards.

    Does nothing outside the main thread, and leaves alone what the caller handles in a way of its own.
    """
    usual: dict[signal.Signals, tuple[Any, Any]] = {
        signal.SIGTERM: (signal.SIG_DFL, _terminate),
        signal.SIGINT: (signal.default_int_handler, _interrupt),
    }
    main = threading.current_thread() is threading.main_thread()
    ours = {number: each for number, each in usual.items() if main and signal.getsignal(number) == each[0]}
    try:
        for number, (_, handler) in ours.items():
            signal.signal(number, handler)
        yield
    finally:
        for number, (before, _) in ours.items():
            signal.signal(number, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: a second one must not interrupt the clearing up
    raise Terminated


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def flush() -> None:
    """Bring what was printed to where it goes.

    Raises:
        BrokenPipeError: nobody reads it.
        OutputError: it cannot be written.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_stdout()
        raise OutputError(error.strerror or str(error)) from None


def reader_gone() -> int:
    """The reader of a pipe went away (``trimkit ... | head``): it has what it wanted."""
    _drop_stdout()
    return 0


def _drop_stdout() -> None:
    """Let what is still to be written go nowhere, so that the end of the interpreter does not try again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, sys.stdout.fileno())
        os.close(handle)


def leave(code: int) -> None:
    """End the process; an interrupt that comes now has nothing to interrupt."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)
