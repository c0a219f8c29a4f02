"""Where the graph of a model's vision tower is held, so that it is exported once."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimkit.errors import ConfigError
from trimkit.io.directories import built
from trimkit.io.leftovers import locked, sweep, temporary_name

__all__ = ["FILE", "HeldTower", "held_tower"]

FOLDER = "trimkit_engines"
FILE = "tower.onnx"
_PACKAGE = Path(__file__).resolve().parents[1]


class HeldTower:
    """The file, and what removes it where it was made for this user alone."""

    def __init__(self, file: Path, remove: Callable[[], None] | None = None) -> None:
        self.file = file
        self._remove = None if remove is None else weakref.finalize(self, remove)  # at the latest when Python ends

    def release(self) -> None:
        """Remove what nobody else could find again. Harmless otherwise, and a second time."""
        if self._remove is not None:
            self._remove()


def held_tower(model: Any, key: str, write: Callable[[Path], None]) -> HeldTower:
    """The graph of ``key``; ``write`` puts it into a directory where it is not there yet.

    It lies beside the checkpoint that the model was loaded from, in ``trimkit_engines``; where that is not to be written to (a
    hub id, a directory of somebody else's, the packaged model), in the cache of huggingface_hub. A model that was built in
    memory has its own for as long as it is attached.

    Args:
        model: whose ``config`` says where it was loaded from.
        key: hash of the weights and of whatever else makes the graph.
        write: given an empty directory, writes ``FILE`` into it.

    Raises:
        ConfigError: the directory or the disk refuses.
    """
    try:
        return _held(model, key, write)
    except OSError as error:
        raise ConfigError(
            f"cannot write the graph of the vision tower ({error.strerror or error}): free space, or make the checkpoint's "
            "directory or huggingface_hub's cache writable"
        ) from None


def _held(model: Any, key: str, write: Callable[[Path], None]) -> HeldTower:
    origin = str(getattr(model.config, "_name_or_path", "") or "")
    if not origin:
        return _for_one(write)
    places = [_cache() / key]
    if _is_writable(Path(origin)):
        places.insert(0, Path(origin) / FOLDER / key)
    for place in places:
        if (place / FILE).is_file():
            return HeldTower(place / FILE)
    _build(places[0], write)
    return HeldTower(places[0] / FILE)


def _for_one(write: Callable[[Path], None]) -> HeldTower:
    """In a directory for temporary files. What a killed process leaves there, the next one removes."""
    home = Path(tempfile.gettempdir())
    sweep(home)
    directory = home / temporary_name()
    directory.mkdir(mode=0o700)
    handle = os.open(directory, os.O_RDONLY) if os.name == "posix" else None

    def remove() -> None:
        shutil.rmtree(directory, ignore_errors=True)
        if handle is not None:
            os.close(handle)

    try:
        if handle is not None:
            with locked(handle):  # until the handle is closed
                write(directory)
        else:
            write(directory)
    except BaseException:
        remove()
        raise
    return HeldTower(directory / FILE, remove)


def _is_writable(directory: Path) -> bool:
    inside = directory.resolve().is_relative_to(_PACKAGE)
    return directory.is_dir() and not inside and os.access(directory, os.W_OK | os.X_OK)


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "trimkit" / FOLDER


def _build(place: Path, write: Callable[[Path], None]) -> None:
    try:
        with built(place) as temporary:
            write(temporary)
    except OSError:
        with contextlib.suppress(OSError):
            if (place / FILE).is_file():  # another process was faster
                return
        raise
