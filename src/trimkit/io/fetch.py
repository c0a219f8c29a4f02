"""One file from the web, within limits: http and https only, redirects too; so many bytes, so many seconds."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from trimkit.errors import InputError
from trimkit.version import __version__

__all__ = ["MAX_BYTES", "MAX_SECONDS", "fetch", "is_url"]

MAX_BYTES = 32_000_000
MAX_SECONDS = 30.0
_SCHEMES = ("http", "https")
_REDIRECTS = 5
_PIECE = 65_536


def is_url(text: str) -> bool:
    """Whether ``text`` starts as an address on the web does."""
    return text.lower().startswith(("http://", "https://"))


def fetch(url: str, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS) -> bytes:
    """What ``url`` gives.

    Raises:
        InputError: another scheme than http and https (of a redirect, too), no answer, an answer of failure, more than
            ``max_bytes``, or longer than ``max_seconds``.
    """
    shown = url[:120]
    _check_scheme(url)
    ends = time.monotonic() + max_seconds
    request = urllib.request.Request(url, headers={"User-Agent": f"trimkit/{__version__}"})
    try:
        with _opener().open(request, timeout=max_seconds) as answer:
            return _read(answer, shown, max_bytes, ends)
    except InputError:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        reason = " ".join(str(error.reason).split())[:120]
        raise InputError(f"{shown} answers {error.code} {reason}: check the address") from None
    except (
        OSError,
        HTTPException,
        ValueError,
    ) as error:  # URLError and timeouts are OSErrors; odd addresses ValueErrors
        cause = " ".join(str(getattr(error, "reason", None) or error).split())[:120] or type(error).__name__
        raise InputError(f"{shown} cannot be fetched ({cause}): check the address, or download the file") from None


def _read(answer: Any, shown: str, max_bytes: int, ends: float) -> bytes:
    too_large = InputError(f"{shown} is over the limit of {max_bytes / 1e6:g} MB: download and shrink it")
    if int(answer.headers.get("Content-Length") or 0) > max_bytes:
        raise too_large
    pieces: list[bytes] = []
    size = 0
    while piece := answer.read1(_PIECE):
        size += len(piece)
        pieces.append(piece)
        if size > max_bytes:
            raise too_large
        if time.monotonic() > ends:
            raise InputError(f"{shown} takes longer than the limit allows: download it, and give the file")
    return b"".join(pieces)


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = _REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        try:
            _check_scheme(newurl)
        except InputError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str) -> None:
    try:
        known = urlsplit(url).scheme.lower() in _SCHEMES
    except ValueError:  # a bracket that is never closed
        known = False
    if not known:
        raise InputError(f"{url[:120]} is not an http or https address: give one of these, or a file")


def _opener() -> urllib.request.OpenerDirector:
    """Without the handlers of file:, ftp: and data: addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener
