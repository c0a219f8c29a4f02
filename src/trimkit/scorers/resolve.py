"""Find the scorer of a model: what the user passed, what the checkpoint names, or what the family knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimkit.core.types import EncoderProfile
from trimkit.errors import ConfigError, ModelError
from trimkit.io.settings import SETTINGS_FILE, clip_inside, read_settings
from trimkit.scorers.base import Scorer
from trimkit.scorers.clip_native import ClipNativeScorer
from trimkit.scorers.external import ExternalScorer

__all__ = ["load_clip", "resolve_scorer"]


def resolve_scorer(
    scorer: Scorer | nn.Module | str | Path | None,
    model: Any,
    default_clip: str | None,
    tower: Any = None,
    directory: Path | None = None,
) -> Scorer | None:
    """Build the scorer for ``model``, or None where nothing is known and nothing was passed.

    Args:
        scorer: a ``Scorer``; a ``CLIPModel`` or ``SiglipModel``; a directory or hub id of one; or None for the checkpoint's
            own ``trimkit.json``, else ``default_clip``.
        model: the vision-language model.
        default_clip: hub id that the family knows.
        tower: config of the vision tower whose features the scorer will be given, or None where it gets pixels. A CLIP of
            that tower's shape reads the features; any other encoder looks at the pixels itself.
        directory: where the checkpoint's ``trimkit.json`` is, if not where the model was loaded from.

    Raises:
        ModelError: the checkpoint cannot be loaded or has no text tower.
        ConfigError: ``scorer`` is none of these, or ``trimkit.json`` cannot be read.
    """
    if isinstance(scorer, Scorer):
        return scorer
    loaded_from = str(getattr(model.config, "_name_or_path", "") or "")
    name = loaded_from if directory is None else str(directory)
    settings = read_settings(Path(name)) if name and Path(name).is_dir() else {}
    if isinstance(scorer, nn.Module):
        source = str(getattr(getattr(scorer, "config", None), "_name_or_path", ""))
        if not source:
            raise ConfigError(
                "this CLIPModel does not know its tokenizer: pass scorer=ClipNativeScorer(clip, tokenizer)"
            )
        return _scorer(scorer, source, settings, tower)
    if scorer is not None and not isinstance(scorer, (str, Path)):
        raise ConfigError(f"scorer {scorer!r} is not a Scorer, a CLIPModel, a directory or a hub id")
    source = (
        str(scorer)
        if scorer is not None
        else _named_clip(settings, Path(name), default_clip, directory) or default_clip or ""
    )
    if not source:
        return None
    device = torch.device("cpu") if model.device.type == "meta" else model.device  # offloaded: weights come when called
    dtype = torch.float32 if device.type == "cpu" else model.dtype
    encoder: Any = load_clip(source)
    found = _scorer(encoder, source, settings, tower)
    if isinstance(found, ClipNativeScorer):
        encoder.vision_model.encoder.layers = nn.ModuleList()  # the model computes these features itself
    encoder.to(device, dtype)
    return found


def _scorer(encoder: Any, source: str, settings: dict[str, Any], tower: Any) -> Scorer:
    """The native scorer where the encoder is the tower's own counterpart, else the external one."""
    tokenizer, config = _load_tokenizer(source), getattr(encoder, "config", None)
    vision = getattr(config, "vision_config", None)
    shape = ("hidden_size", "num_hidden_layers", "patch_size")
    if getattr(config, "model_type", "") == "siglip" or (
        vision is not None and any(getattr(vision, n, None) != getattr(tower, n, None) for n in shape)
    ):
        own = read_settings(Path(source)) if Path(source).is_dir() else {}
        profile = _profile(own) if own else None
        return ExternalScorer(encoder, tokenizer, profile, **_statistics(source))
    return ClipNativeScorer(encoder, tokenizer, _profile(settings))


def _profile(settings: dict[str, Any]) -> EncoderProfile:
    return EncoderProfile(**{key: value for key, value in settings.items() if key not in ("clip", "reduce")})


def _statistics(source: str) -> dict[str, Any]:
    """Mean and deviation of the pixels that a checkpoint was trained on, as its processor's settings say."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:  # no such file: the published ones of its kind serve
        return {}
    return {"mean": found.get("image_mean"), "std": found.get("image_std")}


def load_clip(source: str) -> nn.Module:
    """A ``CLIPModel`` or ``SiglipModel`` whose text tower really was in the checkpoint.

    Raises:
        ModelError: it cannot be loaded, or has no text tower.
    """
    import transformers

    kinds = {"clip": "CLIPModel", "siglip": "SiglipModel"}
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        if config.model_type not in kinds:
            raise ModelError(
                f"{source!r} is a {config.model_type} checkpoint without a CLIP text tower: pass scorer= a full CLIP "
                "checkpoint such as 'openai/clip-vit-large-patch14-336', or use a method that does not read the text"
            )
        kind = getattr(transformers, kinds[config.model_type])
        loaded: Any = kind.from_pretrained(source, use_safetensors=True, output_loading_info=True)
    except ModelError:
        raise
    except Exception as error:  # the readers of configs and tensors fail in ways of their own
        raise ModelError(
            f"cannot load the CLIP checkpoint {source!r} ({_first_line(error)}): pass scorer= a complete CLIP checkpoint, or "
            "use a method that does not read the text"
        ) from None
    clip, info = loaded
    needed = ("text_", "visual_projection", "vision_model.post_layernorm")
    missing = sorted(key for key in info["missing_keys"] if key.startswith(needed))
    if missing:
        raise ModelError(
            f"{source!r} has no CLIP text tower, or half of one (no {missing[0]}): pass scorer= a full CLIP checkpoint"
        )
    tower: nn.Module = clip.eval()
    return tower


def _load_tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"cannot load the tokenizer of the CLIP checkpoint {source!r} ({_first_line(error)}): add its tokenizer files"
        ) from None


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
    if clip == default_clip or (is_hub_id and exported is not None and not (directory / clip).exists()):
        return str(clip)
    given = "" if not isinstance(clip, str) else f" (for example scorer={clip!r})" if is_hub_id else ""
    raise ModelError(
        f"{SETTINGS_FILE} in {str(directory)!r} names {clip!r}, which is no directory within the checkpoint: pass scorer= "
        f"(or --scorer) to use a CLIP from elsewhere{given}"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
