"""``trimkit.json`` beside a checkpoint's config.json: how its encoder is read and, where it was exported, how it reduces.

``{"clip": dir or hub id, "sign": ±1, "normalize": bool, "temperature": float, "reduce": {"method": name, option: value}}``
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimkit._files import write_atomically
from trimkit.errors import ConfigError

__all__ = ["SETTINGS_FILE", "read_settings", "write_settings"]

SETTINGS_FILE = "trimkit.json"
_KEYS = ("clip", "sign", "normalize", "temperature", "reduce")


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
