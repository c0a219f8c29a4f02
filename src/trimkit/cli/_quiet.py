"""Libraries below the commands, kept from writing on the terminal."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from trimkit.io.progress import without_progress_bars

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the log lines and the progress bars of the libraries below off the terminal; as before afterwards."""
    from huggingface_hub import utils as hub
    from transformers import utils as transformers

    logging: Any = transformers.logging  # typed only in part
    hub_logging: Any = hub.logging
    verbosity, hub_verbosity = logging.get_verbosity(), hub_logging.get_verbosity()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    try:
        with without_progress_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
