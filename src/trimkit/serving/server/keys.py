"""The API key of a server."""

from __future__ import annotations

import hmac

from fastapi import Request

from trimkit.serving.server.errors import ApiError

__all__ = ["check_key"]


def check_key(request: Request, key: str | None) -> None:
    """Refuse a request without ``key``; None lets everybody in.

    Raises:
        ApiError: a 401.
    """
    if key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), key.encode())  # headers are read as Latin-1
    if scheme.lower() != "bearer" or not right:
        message = "the API key is missing or wrong: send 'Authorization: Bearer KEY'"
        raise ApiError(401, message, code="invalid_api_key")
