"""Commands that serve need packages that not everybody has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from trimkit.errors import MissingDependencyError

__all__ = ["needing_serve_extra"]


@contextlib.contextmanager
def needing_serve_extra() -> Iterator[None]:
    """Within, imports of what the extra ``serve`` brings.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "trimkit":
            raise
        raise MissingDependencyError(
            f"serving needs {error.name}, which is not installed: pip install 'trimkit[serve]'"
        ) from None
