"""A picture from the web for somebody else: public addresses only, so that a request cannot reach into this network.

The host is looked up once and the connection goes to that very address: a name that points elsewhere a moment later changes
nothing. Every redirect is checked in the same way. Proxies are not used, since they would look names up themselves.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from trimkit.errors import InputError
from trimkit.version import __version__

__all__ = ["fetch_public", "public_address"]

_REDIRECTS = 3
_PIECE = 65_536


def fetch_public(url: str, max_bytes: int, max_seconds: float) -> bytes:
    """What an address on the public web gives.

    Raises:
        InputError: a private address, another scheme than http and https, no answer, more than ``max_bytes``, or longer
            than ``max_seconds``.
    """
    ends = time.monotonic() + max_seconds
    for _ in range(_REDIRECTS + 1):
        parts = _parts(url)
        try:
            found = _get(parts, max_bytes, ends)
        except InputError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InputError(f"{_shown(url)} cannot be fetched ({type(error).__name__}): send a data URL") from None
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise InputError(f"{_shown(url)} redirects more than {_REDIRECTS} times: send a data URL")


def public_address(host: str, port: int) -> str:
    """The first address of ``host``, where all of its addresses are public.

    Raises:
        InputError: one of them is not, or there is none.
    """
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise InputError(f"the host {host[:80]!r} cannot be found: send a data URL") from None
    if not found or not all(_is_public(address) for address in found):
        raise InputError(f"the host {host[:80]!r} is not on the public web: send a data URL")
    return min(found)


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inside = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if inside is not None and not inside.is_global:
            return False
        if parsed in _NAT64:  # the IPv4 address is in the last 32 bits
            return ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF).is_global
    return parsed.is_global and not parsed.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username is not None or not url.isascii() or not url.isprintable() or " " in url:
        raise InputError(f"{_shown(url)} is not an http or https address: send a data URL")
    return parts


def _get(parts: SplitResult, max_bytes: int, ends: float) -> bytes | str:
    """The body, or where the answer redirects to."""
    connection = _connection(parts, ends)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": f"trimkit/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"}
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        place = answer.getheader("Location")
        if answer.status in (301, 302, 303, 307, 308) and place:
            return place
        if answer.status != 200:
            raise InputError(f"{_shown(parts.geturl())} answers {answer.status}: check the address")
        return _body(answer, max_bytes, ends, _shown(parts.geturl()))
    finally:
        connection.close()


def _connection(parts: SplitResult, ends: float) -> http.client.HTTPConnection:
    secure, host = parts.scheme == "https", str(parts.hostname)
    port = parts.port or (443 if secure else 80)
    address = public_address(host, port)
    connection = http.client.HTTPConnection(host, port, timeout=_left(ends))
    raw = socket.create_connection((address, port), timeout=_left(ends))
    try:
        connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=host) if secure else raw
    except BaseException:
        raw.close()
        raise
    return connection


def _body(answer: Any, max_bytes: int, ends: float, shown: str) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := answer.read1(_PIECE):
        size += len(piece)
        if size > max_bytes:
            raise InputError(f"{shown} is over the limit of {max_bytes / 2**20:g} MiB: shrink it")
        pieces.append(piece)
        _left(ends)
    return b"".join(pieces)


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise InputError("the picture takes longer to fetch than the limit allows: send a data URL")
    return left


def _shown(url: str) -> str:
    return url[:120]
