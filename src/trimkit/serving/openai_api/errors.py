"""Errors in OpenAI's form: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from typing import Any

__all__ = ["RequestError", "error_body"]

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
        message: one line, what is wrong and what to do.
        status: of HTTP.
        param: the field of the request that is wrong, such as ``messages[0].content``.
    """

    def __init__(self, message: str, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.param = message, status, param


def error_body(message: str, status: int, param: str | None = None) -> dict[str, Any]:
    """The JSON body of an error reply, or the data of an error event within a stream."""
    return {"error": {"message": message, "type": _KINDS.get(status, "server_error"), "param": param, "code": status}}
