"""Lines of JSON that end with a checksum of their own, so that a changed byte is noticed."""

from __future__ import annotations

import re
import zlib

__all__ = ["summed", "unsummed"]

_SUM = re.compile(rb', "sum": "([0-9a-f]{8})"\}\n')
_SUM_BYTES = len(', "sum": "00000000"}\n')


def summed(text: bytes) -> bytes:
    """A JSON object that has a key as a line, with its checksum as the last key."""
    body = text[:-1]
    return body + b', "sum": "' + _checksum(body) + b'"}\n'


def unsummed(line: bytes) -> tuple[bytes, bool] | None:
    """The JSON object of a line without its checksum, and whether it is what was written; None where the line has none."""
    said = _SUM.fullmatch(line[-_SUM_BYTES:])
    if said is None:
        return None
    body = line[:-_SUM_BYTES]
    return body + b"}", said[1] == _checksum(body)


def _checksum(body: bytes) -> bytes:
    return f"{zlib.crc32(body):08x}".encode()
