"""``trimkit.json`` beside a checkpoint's config.json: how its encoder is read and, where it was exported, how it reduces.

``{"clip": dir or hub id, "sign": ±1, "normalize": bool, "temperature": float, "reduce": {"method": name, option: value}}``
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimkit.errors import ConfigError
from trimkit.io.files import user_path, write_atomically

__all__ = ["SETTINGS_FILE", "load_settings", "read_settings", "write_settings"]

SETTINGS_FILE = "trimkit.json"
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
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {str(error).strip().splitlines()[0]}") from None
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


def write_settings(directory: Path, settings: dict[str, Any]) -> None:
    """Write the file, whole or not at all.

    Raises:
        InputError: the directory or the disk refuses.
    """
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    write_atomically(directory / SETTINGS_FILE, lambda file: file.write(text.encode()))
