"""Find the scorer of a model: what the user passed, what its checkpoint names, or what the family knows; load it once."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimkit.core.recent import Recent
from trimkit.core.types import EncoderProfile
from trimkit.errors import ConfigError, ModelError
from trimkit.io.files import user_path
from trimkit.io.settings import SETTINGS_FILE, clip_inside, load_settings, read_settings
from trimkit.scorers._shared import Shared
from trimkit.scorers._shelf import class_for, named_class
from trimkit.scorers.base import EncoderScorer, Scorer
from trimkit.scorers.checkpoint import EncoderCheckpoint, fingerprint, read_config
from trimkit.scorers.clip_native import ClipNativeScorer
from trimkit.scorers.fitted import fitted_config

__all__ = ["load_scorer", "placement", "resolve_scorer", "source_of"]

_shared: Shared[EncoderScorer] = Shared()
_configs: Recent[Hashable, Any] = Recent(16)


def load_scorer(
    source: str | Path | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    tower: Any = None,
    directory: str | Path | None = None,
) -> Scorer:
    """A scorer without a model, for example for an engine that computes the features itself.

    It is loaded once for each source, device and dtype, and shared for as long as somebody uses it; a checkpoint whose files
    have changed is another one. What it holds of questions and pictures is shared with it.

    Args:
        source: a directory or a hub id of an encoder, or the name of a scorer that needs none. By default what the
            ``trimkit.json`` in ``directory`` names.
        device, dtype: where and how it is to compute; float32 by default.
        tower: config of the vision tower whose features the scorer will be given, or None where it gets pixels. A CLIP of that
            tower's shape reads the features; any other encoder looks at the pixels itself.
        directory: of the vision-language model's checkpoint. Its ``trimkit.json`` says how to read the tower's similarity.

    Raises:
        ModelError: the checkpoint cannot be loaded or has no text tower.
        ConfigError: no source is named, or a ``trimkit.json`` cannot be read.
    """
    settings = {} if directory is None else load_settings(directory)
    named = str(source) if source is not None else _named_clip(settings, user_path(directory or ""), None, None)
    if not named:
        raise ConfigError("no scorer is named: pass a CLIP checkpoint, or a directory whose trimkit.json names one")
    place = torch.empty(0, device=device).device  # with its number
    return _load(named, tower, settings, place, dtype or torch.float32)


def resolve_scorer(
    scorer: Scorer | nn.Module | str | Path | None,
    model: Any,
    default_clip: str | None,
    tower: Any = None,
    directory: Path | None = None,
) -> Scorer | None:
    """The scorer for ``model``, or None where nothing is known and nothing was passed. See ``load_scorer``.

    Args:
        scorer: a ``Scorer``; a ``CLIPModel`` or ``SiglipModel``; a directory or hub id of one, a folder that ``trimkit fit``
            wrote, or a scorer's name; or None for what the checkpoint's own ``trimkit.json`` names, else ``default_clip``.
        model: the vision-language model.
        default_clip: hub id that the family knows.
        tower: as ``load_scorer`` takes it.
        directory: where the checkpoint's ``trimkit.json`` is, if not where the model was loaded from.

    Raises:
        ModelError: the checkpoint cannot be loaded or has no text tower.
        ConfigError: ``scorer`` is none of these or was fitted to another model, or ``trimkit.json`` cannot be read.
    """
    if isinstance(scorer, Scorer):
        return scorer
    loaded_from = str(getattr(model.config, "_name_or_path", "") or "")
    name = loaded_from if directory is None else str(directory)
    settings = read_settings(Path(name)) if name and Path(name).is_dir() else {}
    if isinstance(scorer, nn.Module):
        return _around(scorer, tower, settings)
    if scorer is not None and not isinstance(scorer, (str, Path)):
        raise ConfigError(f"scorer {scorer!r} is not a Scorer, a CLIPModel, a directory or a hub id")
    named = _named_clip(settings, Path(name), default_clip, directory) if scorer is None else str(scorer)
    source = named or default_clip or ""
    if not source:
        return None
    found = _load(source, tower, settings, *placement(model))
    found.check_model(model)
    return found


def placement(model: Any) -> tuple[torch.device, torch.dtype]:
    """Where and how a model's scorer computes: beside the model, on a CPU in float32."""
    device: torch.device = model.device  # looked up once: it takes a walk to the first parameter
    device = torch.device("cpu") if device.type == "meta" else device  # offloaded: weights come when called
    return device, torch.float32 if device.type == "cpu" else model.dtype


def _load(source: str, tower: Any, settings: dict[str, Any], device: torch.device, dtype: torch.dtype) -> EncoderScorer:
    files = fingerprint(source)
    named = None if Path(source).is_dir() else named_class(source)
    config = _config(source, files) if named is None else None
    kind = named or class_for(source, config, tower)
    profile = _profile(kind, source, settings)
    under = getattr(config, "base", None)
    base = None if under is None else _native(under, device, dtype)
    checkpoint = EncoderCheckpoint(source, config, profile, device=device, dtype=dtype, base=base)
    return _shared.get((kind, files, device, dtype, profile), lambda: kind.load(checkpoint))


def _native(source: str, device: torch.device, dtype: torch.dtype) -> EncoderScorer:
    """The CLIP of a tower, whose features it is given."""
    files = fingerprint(source)
    checkpoint = EncoderCheckpoint(source, _config(source, files), None, device=device, dtype=dtype)
    return _shared.get((ClipNativeScorer, files, device, dtype, None), lambda: ClipNativeScorer.load(checkpoint))


def source_of(scorer: object, model: Any, default_clip: str | None) -> str | None:
    """The directory or hub id that ``resolve_scorer`` loads; None where it loads none, or is given a loaded one."""
    if isinstance(scorer, (str, Path)):
        return str(scorer)
    name = str(getattr(model.config, "_name_or_path", "") or "")
    settings = read_settings(Path(name)) if name and Path(name).is_dir() else {}
    return (_named_clip(settings, Path(name), default_clip, None) or default_clip) if scorer is None else None


def _around(encoder: nn.Module, tower: Any, settings: dict[str, Any]) -> EncoderScorer:
    """A scorer of the user's own module, which is left whole and where it is."""
    config = getattr(encoder, "config", None)
    source = str(getattr(config, "_name_or_path", ""))
    if not source:
        raise ConfigError("this CLIPModel does not know its tokenizer: pass scorer=ClipNativeScorer(clip, tokenizer)")
    kind = class_for(source, config, tower)
    return kind.load(EncoderCheckpoint(source, config, _profile(kind, source, settings), module=encoder))


def _config(source: str, files: Hashable) -> Any:
    """The config of a checkpoint with these files; read once."""
    found = _configs.get(files)
    if found is None:
        found = fitted_config(Path(source)) or read_config(source)
        _configs.put(files, found)
    return found


def _profile(kind: type[EncoderScorer], source: str, settings: dict[str, Any]) -> EncoderProfile | None:
    """What a ``trimkit.json`` says: the model's of its tower, the encoder's own of one that looks at pixels."""
    if kind.needs_views or kind.own_profile:
        settings = read_settings(Path(source)) if Path(source).is_dir() else {}
    said = {key: value for key, value in settings.items() if key not in ("clip", "reduce")}
    return EncoderProfile(**said) if said else None


def _named_clip(
    settings: dict[str, Any], directory: Path, default_clip: str | None, exported: Path | None
) -> str | None:
    """The CLIP that a checkpoint's settings name: a directory within it, or, on the user's word, a hub id.

    The family's own CLIP needs no word. ``exported`` is given where the user has trusted the checkpoint's code
    (``trust_remote_code=True``), which says more.

    Raises:
        ModelError: it lies elsewhere, and nobody but the checkpoint says so.
    """
    clip = settings.get("clip")
    if clip is None:
        return None
    local = clip_inside(directory, clip)
    if local is not None:
        return str(local)
    is_hub_id = isinstance(clip, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", clip) is not None
    trusted = is_hub_id and exported is not None and not (directory / clip).exists()
    if clip == default_clip or trusted or (isinstance(clip, str) and named_class(clip) is not None):
        return str(clip)
    given = "" if not isinstance(clip, str) else f" (for example scorer={clip!r})" if is_hub_id else ""
    raise ModelError(
        f"{SETTINGS_FILE} in {str(directory)!r} names {clip!r}, which is no directory within the checkpoint: pass scorer= "
        f"to use a CLIP from elsewhere{given}"
    )
