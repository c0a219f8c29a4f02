"""How far a long command is: a bar on a terminal, elsewhere a line on stderr now and then, with what is left."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ["Steps", "progress"]

_FIRST = 10.0  # seconds of silence before the first line; shorter commands print none
_LATER = (20.0, 30.0, 60.0)  # between lines after that, the last again and again


@contextlib.contextmanager
def progress(title: str, total: int, first: str = "") -> Iterator[Steps]:
    """Yields what to call with the steps done, of ``total``; ``first`` is what goes on before any step is done.

    On a terminal a bar. Elsewhere lines such as ``trimkit: suite: 120 of 2004 (6%) after 30 s, about 8 min left``, from a
    thread of its own, so that one long step is no silence.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        with _Lines(title, total, first) as lines:
            yield Steps(lines.advance, lines.expect)
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield Steps(lambda steps: bar.advance(task, steps), lambda total: bar.update(task, total=total))


class Steps:
    """Called with the steps done; ``expect`` says how many there will be, where that is known later."""

    def __init__(self, advance: Callable[[int], None], expect: Callable[[int], None]) -> None:
        self._advance = advance
        self.expect = expect

    def __call__(self, steps: int) -> None:
        self._advance(steps)


class _Lines:
    """A thread that says how far it is."""

    def __init__(self, title: str, total: int, first: str) -> None:
        self._title, self._total, self._first = title, total, first
        self._done = 0
        self._started = time.monotonic()
        self._moved = self._started
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimkit-progress", daemon=True)

    def expect(self, total: int) -> None:
        """There will be so many."""
        self._total = total

    def advance(self, steps: int) -> None:
        """So many more are done."""
        self._done += steps
        self._moved = time.monotonic()

    def __enter__(self) -> _Lines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        pauses = itertools.chain([_FIRST, *_LATER], itertools.repeat(_LATER[-1]))
        for pause in pauses:
            if self._over.wait(pause):
                return
            with contextlib.suppress(OSError, ValueError):  # a closed stderr is no reason to end
                print(f"trimkit: {self.line()}", file=sys.stderr, flush=True)

    def line(self) -> str:
        """How far it is, and what is left if steps go on to take as long as they did."""
        done, spent = self._done, time.monotonic() - self._started
        of = f"{done} of {self._total} ({done / self._total:.0%})" if self._total else "nothing done"
        so_far = f"{self._title}: {of} after {_words(spent)}"
        if not done:
            return f"{so_far}{f' ({self._first})' if self._first else ''}; how long it takes is known after the first"
        left = (self._moved - self._started) * (self._total - done) / done
        return f"{so_far}, about {_words(max(left - (time.monotonic() - self._moved), 0.0))} left"


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
