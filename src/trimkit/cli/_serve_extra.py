"""Commands that serve need packages that not everybody has."""

from __future__ import annotations

import contextlib

from trimkit.cli._extras import needing_extra

__all__ = ["needing_serve_extra"]


def needing_serve_extra() -> contextlib.AbstractContextManager[None]:
    """Within, imports of what the extra ``serve`` brings.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return needing_extra("serving", "serve")
