"""These tests start the real server; ``make test-serve`` runs them in an environment that has the clients."""

from __future__ import annotations

import importlib.util

if any(importlib.util.find_spec(name) is None for name in ("fastapi", "openai", "httpx")):
    collect_ignore_glob = ["test_*.py"]
