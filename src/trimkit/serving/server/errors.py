"""What goes wrong with a request, as OpenAI's clients read it: a status and a JSON object ``error``."""

from __future__ import annotations

from typing import Any

from trimkit.errors import ConfigError, InputError, TrimkitError, UnsupportedError
from trimkit.io.text import one_line, shorten

__all__ = ["ApiError", "bad_request", "error_of", "is_out_of_memory"]

_TYPES = {401: "authentication_error", 404: "not_found_error", 408: "timeout_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request is refused, or fails.

    Args:
        status: HTTP status; of a reply that has begun it is told in an event.
        message: one line: what is wrong and what to do.
        param: which field of the request, dotted.
        code: a word for programs.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object, as the OpenAI API gives it."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        message = one_line(shorten(str(self))).encode("utf-8", "replace").decode()
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer that tells it."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Status 400."""
    return ApiError(400, message, param=param, code=code)


def error_of(error: BaseException, param: str | None = None) -> ApiError:
    """Any exception as the client is told it. What the request can mend is a 400; of a defect no detail is given away."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, (InputError, ConfigError, UnsupportedError)):
        return bad_request(str(error), param)
    if isinstance(error, TrimkitError):
        return ApiError(500, str(error))
    if is_out_of_memory(error):
        return ApiError(503, "the server is out of memory: try again, with smaller pictures", retry_after=5)
    return ApiError(500, f"the server failed ({type(error).__name__}): its log says more")


def is_out_of_memory(error: BaseException) -> bool:
    """Python's, the CUDA allocator's, and the CPU allocator's, which torch raises as a RuntimeError."""
    text = str(error)
    return (
        isinstance(error, MemoryError) or "CUDA out of memory" in text or "DefaultCPUAllocator: can't allocate" in text
    )
