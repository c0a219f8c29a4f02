"""Addresses and keys as users write them, looked at before anything is sent: what no request could carry is found out here."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["is_sendable_key", "is_server_address"]

_LONGEST = 2000  # letters


def is_server_address(url: str) -> bool:
    """Whether ``url`` is an http(s) address of a server: a host, a port that exists, and no query behind its path."""
    if len(url) > _LONGEST or not (url.isascii() and url.isprintable()) or " " in url:
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    known = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and port != 0
    return known and not parts.query and not parts.fragment


def is_sendable_key(key: str | None) -> bool:
    """Whether a header can carry an API key; None is no key, and can."""
    return key is None or (key.isascii() and key.isprintable() and bool(key) and " " not in key)
