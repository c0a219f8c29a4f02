"""A client of httpx, or one line that says which address or setting of this machine it cannot be made with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from trimkit.errors import ConfigError

if TYPE_CHECKING:
    import httpx

__all__ = ["opened_client"]


def opened_client(urls: Iterable[str], **options: Any) -> httpx.AsyncClient:
    """``httpx.AsyncClient(**options)``.

    Raises:
        ConfigError: one of ``urls`` names no host that can be looked up; or the proxies or certificates that the environment
            names are none.
    """
    import httpx

    for url in urls:
        try:
            if not httpx.URL(url).host:
                raise ValueError("it names no host")
        except (httpx.InvalidURL, ValueError) as error:  # a UnicodeError is a ValueError
            raise ConfigError(f"{url!r} is no address ({error}): give one such as http://localhost:8000") from None
    try:
        return httpx.AsyncClient(**options)
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        said = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"the environment's proxies or certificates cannot be used ({said}): look at HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, "
            "NO_PROXY and SSL_CERT_FILE"
        ) from None
