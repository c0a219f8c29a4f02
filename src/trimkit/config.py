"""A saved way of reducing, as ``trimkit calibrate`` writes it: which method with which options, and where they come from.

``{"version": 1, "reduce": {"method": name, option: value}, "calibration": {...}}``; ``reduce`` is what ``trimkit.json`` of an
exported checkpoint holds under the same name. Commands that reduce take such a file with ``--config``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimkit.core.choices import Positions
from trimkit.core.confidence import fallback_of
from trimkit.errors import ConfigError, InputError
from trimkit.io.files import user_path, write_atomically
from trimkit.io.reading import read_json
from trimkit.io.settings import SETTINGS_FILE, read_settings
from trimkit.io.text import json_text
from trimkit.io.validation import first_fault
from trimkit.methods import Method, get_method

__all__ = [
    "Config",
    "Reduction",
    "call_options",
    "configured",
    "exported_reduction",
    "load_config",
    "read_config",
    "save_config",
]

VERSION = 1
_MAX_BYTES = 16 * 2**20


class Reduction(BaseModel):
    """A method's name and options, which the method checks; the others as ``trimkit.reduce`` takes them.

    ``scorer`` is the directory or hub id that the rest was chosen with, where that was not the model's own.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str = Field(min_length=1)
    fallback: dict[str, Any] | None = None
    positions: Positions | None = None
    scorer: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options, as ``get_method`` takes them."""
        return dict(self.model_extra or {})

    @property
    def call(self) -> dict[str, Any]:
        """What else it says of a call: ``fallback``, ``positions`` and ``scorer``, where it does."""
        said = {"fallback": self.fallback, "positions": self.positions, "scorer": self.scorer}
        return {name: value for name, value in said.items() if value is not None}

    def build(self) -> Method:
        """The method.

        Raises:
            UnknownNameError, ConfigError: no such method or option.
        """
        fallback_of(self.fallback)
        return get_method(self.method, **self.options)


class Config(BaseModel):
    """One config file.

    Attributes:
        version: of this schema.
        reduce: what is done.
        calibration: what it was chosen from; for people, nothing reads it back.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    reduce: Reduction
    calibration: dict[str, Any] | None = None


def read_config(path: str | Path) -> Config:
    """Read and check a config file.

    Raises:
        ConfigError: it cannot be read, is of another version, or names a method or option that is not there.
    """
    try:
        content = read_json(path, _MAX_BYTES, what="config", remedy="give a file that trimkit calibrate wrote")
    except InputError as error:
        raise ConfigError(str(error)) from None
    version = content.get("version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise ConfigError(f"config {str(path)!r} has version {version}, this trimkit reads {VERSION}: update trimkit")
    try:
        config = Config.model_validate(content)
        config.reduce.build()
    except ValidationError as error:
        raise ConfigError(f"config {str(path)!r}: {_one_line(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"config {str(path)!r}: {error}") from None
    return config


def load_config(path: str | Path) -> dict[str, Any]:
    """What a config file says, as arguments: ``trimkit.reduce(model, processor, **trimkit.load_config(path))``.

    Returns:
        ``method`` and its options; ``fallback``, ``positions`` and ``scorer`` where the file has them.

    Raises:
        ConfigError: see ``read_config``.
    """
    reduction = read_config(path).reduce
    return {"method": reduction.method, **reduction.options, **reduction.call}


def exported_reduction(model: str | Path) -> Reduction | None:
    """How the checkpoint directory ``model`` reduces, as ``trimkit export`` wrote; None where it does not say.

    ``demo`` is the packaged model, which does not, whatever directory has that name.

    Raises:
        ConfigError: its ``trimkit.json`` cannot be read, or names a method or option that is not there.
    """
    directory = user_path(model)
    named = str(model).strip() not in ("", "demo")
    said = read_settings(directory).get("reduce") if named and directory.is_dir() else None
    if said is None:
        return None
    try:
        reduction = Reduction.model_validate(said)
        reduction.build()
    except ValidationError as error:
        raise ConfigError(f"{directory / SETTINGS_FILE}: {_one_line(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{directory / SETTINGS_FILE}: {error}") from None
    return reduction


def configured(
    path: str | Path | None, method: str | Method | None = None, own: Reduction | None = None, /, **options: Any
) -> Method:
    """The method of a config file, else of ``own``, else ``trim``; what is given beside them wins.

    Another method than the config's takes over the budget and the encoder's profile, so that the two compare at equal tokens.
    One that is built already needs no file.

    Raises:
        UnknownNameError, ConfigError: as ``read_config`` and ``get_method`` do.
    """
    if "method" in options:
        raise ConfigError("'method' is no option of a method: name it apart (--method)")
    if isinstance(method, Method):
        return get_method(method, **options)
    known = read_config(path).reduce if path is not None else own or Reduction(method="trim")
    said = known.options
    if method not in (None, known.method):
        said = {key: said[key] for key in ("budget", "profile") if key in said}
    return get_method(method or known.method, **{**said, **options})


def call_options(path: str | Path | None, own: Reduction | None = None) -> dict[str, Any]:
    """``fallback``, ``positions`` and ``scorer`` of a config file, else of ``own``; empty where neither says any.

    Raises:
        ConfigError: as ``read_config`` does.
    """
    known = read_config(path).reduce if path is not None else own
    return {} if known is None else known.call


def save_config(path: str | Path, config: Config) -> Path:
    """Write a config file, whole or not at all; returns where.

    Raises:
        InputError: the directory or the disk refuses.
    """
    target = user_path(path)
    text = json_text(config.model_dump(mode="json", exclude_none=True))
    write_atomically(target, lambda file: file.write(text.encode()))
    return target


def _one_line(error: ValidationError) -> str:
    where, message, kind = first_fault(error)
    if kind == "extra_forbidden":
        return f"unknown key {where!r}: it takes {', '.join(Config.model_fields)}"
    if not where:
        return 'not a JSON object: write for example {"version": 1, "reduce": {"method": "trim", "budget": 0.2}}'
    return f"{where}: {message}"
