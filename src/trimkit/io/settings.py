"""``trimkit.json`` beside a checkpoint's config.json: how its encoder is read and, where it was exported, how it reduces.

``{"clip": dir or hub id, "sign": ±1, "normalize": bool, "temperature": float, "reduce": {"method": name, option: value}}``
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimkit.errors import ConfigError, InputError
from trimkit.io.files import resolved, user_path, write_atomically
from trimkit.io.reading import read_json
from trimkit.io.text import json_text

__all__ = ["SETTINGS_FILE", "clip_inside", "load_settings", "read_settings", "write_settings"]

SETTINGS_FILE = "trimkit.json"
_MAX_BYTES = 2**20
_KEYS = ("clip", "sign", "normalize", "temperature", "reduce")


def load_settings(directory: str | Path) -> dict[str, Any]:
    """What a checkpoint's ``trimkit.json`` says; empty where the directory has none.

    Keys: ``clip`` (a directory beside the weights, or a hub id), ``sign``, ``normalize``, ``temperature`` (how the encoder is
    read, see ``EncoderProfile``), and ``reduce`` (``{"method": name, option: value}``) where the checkpoint was exported.

    Raises:
        ConfigError: there is no such directory, or the file cannot be read or says something that is not known.
    """
    found = user_path(directory)
    if not found.is_dir():
        raise ConfigError(f"there is no checkpoint directory {str(directory)!r}: give one that save_pretrained wrote")
    return read_settings(found)


def read_settings(directory: Path) -> dict[str, Any]:
    """What the file in ``directory`` says; empty where there is none.

    Raises:
        ConfigError: it cannot be read, or says something that is not known.
    """
    path = directory / SETTINGS_FILE
    if not path.exists():
        return {}
    try:
        settings = read_json(path, _MAX_BYTES, remedy="mend it, or remove it")
    except InputError as error:
        raise ConfigError(str(error)) from None
    known = ", ".join(_KEYS)
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} is not a JSON object: expected keys {known}")
    unknown = sorted(set(settings) - set(_KEYS))
    if unknown:
        raise ConfigError(f"{path} has an unknown key {unknown[0]!r}: known are {known}")
    reduce = settings.get("reduce", {"method": ""})
    if not isinstance(reduce, dict) or not isinstance(reduce.get("method"), str):
        raise ConfigError(f'{path}: "reduce" names no method: write for example {{"method": "trim", "budget": 0.2}}')
    return settings


def clip_inside(directory: Path, clip: object) -> Path | None:
    """The directory of the CLIP that settings name, where it really lies within the checkpoint; None where it does not.

    A name such as ``../clip``, an absolute path, a link that leads out of the checkpoint and a hub id all lie outside.
    """
    if not isinstance(clip, str) or not clip or "\0" in clip:
        return None
    found = directory / clip
    inside = resolved(found).is_relative_to(resolved(directory)) and resolved(found) != resolved(directory)
    return found if inside and found.is_dir() else None


def write_settings(directory: Path, settings: dict[str, Any]) -> None:
    """Write the file, whole or not at all.

    Raises:
        InputError: the directory or the disk refuses.
    """
    text = json_text(settings)
    # In a hub cache the file is a link to one that other revisions share: the link is replaced.
    write_atomically(directory / SETTINGS_FILE, lambda file: file.write(text.encode()), follow=False)
