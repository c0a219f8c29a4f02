"""What a user reads where something is wrong: one line, no traceback."""

from __future__ import annotations

import logging

from trimkit.errors import TrimkitError
from trimkit.io.text import one_line, shorten

__all__ = ["explain"]

_log = logging.getLogger(__name__)


def explain(error: BaseException) -> str:
    """One line that says what is wrong and what to do; of a defect the log has the traceback."""
    if isinstance(error, TrimkitError):
        return one_line(shorten(str(error)))
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate" in str(error):
        return "There is not enough memory for this: use a smaller picture or a smaller model."
    _log.error("the page failed: %s", error, exc_info=error)
    return f"Something went wrong here ({type(error).__name__}). The log of the server says more; try again."
