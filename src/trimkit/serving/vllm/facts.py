"""What trimkit knows of a checkpoint's family, from its config: placeholder, scorer, and where tokens look.

vLLM's model classes are not transformers'. A twin of the model without weights (on the ``meta`` device) answers what the
families of ``trimkit.models`` ask of a model, so that nothing of their geometry is written a second time.
"""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from trimkit.io.building import one_at_a_time
from trimkit.io.settings import load_settings
from trimkit.models import Family, families, family_of
from trimkit.scorers import Scorer, load_scorer
from trimkit.serving.vllm.settings import ServerSettings

__all__ = ["default_clip", "image_token", "knows_scorer", "scorer_for", "twin_of"]


def image_token(config: Any) -> int:
    """Id of the placeholder.

    Raises:
        UnsupportedError: the config names none.
    """
    return Family().image_token_id(SimpleNamespace(config=config))


def twin_of(config: Any) -> tuple[Family, Any]:
    """The family, and a transformers model of this config that has shapes and no weights.

    Raises:
        UnsupportedError: trimkit does not cover it.
    """
    from transformers import AutoModelForImageTextToText

    made: Any = AutoModelForImageTextToText  # its methods are typed only in part
    with one_at_a_time(), torch.device("meta"):
        model = made.from_config(copy.deepcopy(config))
    return family_of(model), model.eval()


def default_clip(config: Any) -> str | None:
    """The CLIP that this tower was taken from, where it is known."""
    family = dict(families()).get(config.model_type)
    return None if family is None else family.default_clip(SimpleNamespace(config=config))


def knows_scorer(config: Any, model: str, settings: ServerSettings) -> bool:
    """Whether text relevance has a source: named by the server's settings or the checkpoint's, or the family's own."""
    return bool(settings.scorer or _named(model) or default_clip(config))


def scorer_for(
    family: Family,
    twin: Any,
    model: str,
    settings: ServerSettings,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Scorer:
    """The scorer, loaded.

    Raises:
        ModelError: the checkpoint cannot be loaded or has no text tower.
        ConfigError: none is known, or ``trimkit.json`` cannot be read.
    """
    directory = model if Path(model).is_dir() else None
    default = family.default_clip(twin)
    named = _named(model)
    # A hub id in trimkit.json is another's word; only the family's own needs none.
    source = settings.scorer or (default if named in (None, default) else None)
    place = torch.float32 if device.type == "cpu" else dtype
    return load_scorer(source, device=device, dtype=place, tower=family.tower(twin), directory=directory)


def _named(model: str) -> str | None:
    said = load_settings(model).get("clip") if Path(model).is_dir() else None
    return None if said is None else str(said)
