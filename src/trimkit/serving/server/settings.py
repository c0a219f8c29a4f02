"""What the server allows: limits that every request is held to, and how it may be reached."""

from __future__ import annotations

from dataclasses import dataclass, fields

from trimkit.errors import ConfigError
from trimkit.io.addresses import is_sendable_key

__all__ = ["Access", "Limits", "check_own_key"]


@dataclass(frozen=True)
class Limits:
    """Limits of the server. What goes beyond is refused, never cut short.

    Attributes:
        body_bytes: of one request; the base64 of its pictures is most of it (413).
        held_bytes: of all bodies that are being read at one time (429).
        pictures: in one request, all turns of its conversation together.
        pixels: width x height of one picture, read from its header before it is decoded.
        tokens: that one reply may have, also where the request names no number.
        batch: requests that generate at one time.
        queue: further requests that may wait (429 beyond).
        deadline: seconds from the last byte of the request to the last of the reply (504, or an error event).
        body_seconds: within which a body has to arrive (408).
        write_seconds: that a client may take no data for before its connection is closed.
        grace: seconds that running requests are given when the server is asked to stop.

    Raises:
        ConfigError: a number below 1.
    """

    body_bytes: int = 32 * 2**20
    held_bytes: int = 256 * 2**20
    pictures: int = 8
    pixels: int = 40_000_000
    tokens: int = 1024
    batch: int = 16
    queue: int = 64
    deadline: float = 300.0
    body_seconds: float = 30.0
    write_seconds: float = 30.0
    grace: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"limit {field.name}={value} is not a positive number: give one")


@dataclass(frozen=True)
class Access:
    """Who may ask, and for what.

    Attributes:
        model_name: what ``model`` of a request has to say.
        api_key: that ``Authorization: Bearer`` has to give below ``/v1``; None for nobody's.
        origins: whose pages a browser lets ask (CORS), such as ``https://example.org``, or ``*``.
        remote_pictures: whether ``image_url`` may be an http or https address, which this machine then fetches.

    Raises:
        ConfigError: a key that no client could send.
    """

    model_name: str
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    remote_pictures: bool = False

    def __post_init__(self) -> None:
        """Refuse a key that nobody could give."""
        check_own_key(self.api_key)


def check_own_key(key: str | None) -> None:
    """Look at the key that clients have to send.

    Raises:
        ConfigError: no header can carry it.
    """
    if not is_sendable_key(key):
        raise ConfigError(
            "the API key is one that no client could send: choose plain letters and digits, without spaces"
        )
