"""Worker processes that end with their parent, however that ends, and that leave Ctrl-C to it."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection
from typing import Any

__all__ = ["interrupts_held_back", "worker_pool"]

_PR_SET_PDEATHSIG = 1  # of prctl, see linux/prctl.h


@contextlib.contextmanager
def worker_pool(size: int, start: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """``size`` fresh processes, each of which calls ``start(*arguments)`` first.

    Where the block is left by an error or an interrupt, they are killed at once, in the middle of their work. Where this
    process is killed, they end, too.
    """
    before = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")  # threads of torch in the parent do not survive a fork
    pool = ProcessPoolExecutor(size, spawn, initializer=_begin, initargs=(os.getpid(), start, *arguments))
    try:
        yield pool
    except BaseException:
        for worker in set(multiprocessing.active_children()) - before:
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM for afterwards, so that no process is left half started.

    Processes started meanwhile never see Ctrl-C, not even while they import their modules.
    """
    held: list[int] = []
    with _handled_by(lambda number, frame: held.append(number)) as handlers:
        if not hasattr(signal, "pthread_sigmask"):  # not a POSIX system
            yield
        else:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what is started inherits it
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for number in held:
        handlers[number](number, None)


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, Any], Any]) -> Iterator[dict[int, Callable[..., Any]]]:
    """The handlers of Ctrl-C and SIGTERM replaced; yields those that were.

    A mask alone would not do: another thread may be given the signal, and Python runs the handler in the main one.
    """
    handlers: dict[int, Callable[..., Any]] = {}
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
            known = signal.getsignal(each)
            if callable(known):
                handlers[each] = known
                signal.signal(each, handler)
    try:
        yield handlers
    finally:
        for number, before in handlers.items():
            signal.signal(number, before)


def _begin(parent: int, start: Callable[..., None], *arguments: Any) -> None:
    """The first thing that a worker does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent(parent)
    start(*arguments)


def _end_with_parent(parent: int) -> None:
    if sys.platform == "linux":  # the kernel does it, even while a long computation holds the interpreter
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if hasattr(os, "getppid") and os.getppid() != parent:  # it ended before that
        os._exit(1)
    threading.Thread(target=_wait_for_end, name="trimkit-parent-watch", daemon=True).start()


def _wait_for_end() -> None:
    """Wait on the pipe that the parent holds open as long as it lives."""
    above = multiprocessing.parent_process()
    if above is not None:
        connection.wait([above.sentinel])
        os._exit(1)
