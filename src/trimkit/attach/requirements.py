"""Which transformers this needs."""

from __future__ import annotations

from packaging.version import Version

from trimkit.errors import UnsupportedError

__all__ = ["MINIMUM_TRANSFORMERS", "check_version"]

MINIMUM_TRANSFORMERS = "5.19"


def check_version() -> None:
    """Refuse an older one.

    Raises:
        UnsupportedError: as it says.
    """
    import transformers

    if Version(transformers.__version__).release < Version(MINIMUM_TRANSFORMERS).release:
        raise UnsupportedError(
            f"transformers {transformers.__version__} is too old: trimkit needs {MINIMUM_TRANSFORMERS} or newer, where "
            "models take pre-encoded images; upgrade with `pip install -U transformers`"
        )
