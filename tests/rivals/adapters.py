"""Which adapter runs which method. A module of adapters has a table ``ADAPTERS``; a new one is named here."""

from __future__ import annotations

from tests.rivals import more, rivals
from tests.rivals.vectors import Adapter

__all__ = ["ADAPTERS"]

ADAPTERS: dict[str, Adapter] = {**rivals.ADAPTERS, **more.ADAPTERS}
