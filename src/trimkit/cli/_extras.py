"""Commands may need packages that not everybody has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from trimkit.errors import MissingDependencyError

__all__ = ["needing_extra"]


@contextlib.contextmanager
def needing_extra(what: str, extra: str) -> Iterator[None]:
    """Within, imports of what an extra brings.

    Args:
        what: what needs them, for the message.
        extra: its name.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "trimkit":
            raise
        raise MissingDependencyError(
            f"{what} needs {error.name}, which is not installed: pip install 'trimkit[{extra}]'"
        ) from None
