"""What is wrong with a model before its first call, or with what its encoder gives: one line, not a traceback from inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trimkit.errors import UnsupportedError

__all__ = ["check_feature_layers", "check_features"]

_LAYERS = ("vision_feature_layer", "vision_feature_layers")
_COUNTS = ("num_hidden_layers", "depth", "num_layers", "n_layers")


def check_feature_layers(model: Any) -> None:
    """Refuse a config that names layers which its vision tower does not have.

    Raises:
        UnsupportedError: with the layers named and those there are.
    """
    vision = getattr(model.config, "vision_config", None)
    count = next((value for name in _COUNTS if isinstance(value := getattr(vision, name, None), int)), None)
    for name in _LAYERS:
        asked = getattr(model.config, name, None)
        layers = list(asked) if isinstance(asked, list | tuple) else [asked]
        if asked is None or count is None:
            continue
        # States are numbered from the embeddings (0) to the last layer (count), or back from the last (-1).
        if bad := [n for n in layers if not isinstance(n, int) or not -count - 1 <= n <= count]:
            raise UnsupportedError(
                f"{type(model).__name__}'s config reads {name}={_shown(bad)} of a vision tower with {count} layers: name "
                f"states from {-count - 1} to {count} in its config.json"
            )


def check_features(model: Any, features: Any, layers: Sequence[Any], *, frames: bool = False) -> None:
    """Refuse encoder outputs that are not one ``[n, D]`` an image, with as many deep-stack features in each layer.

    With ``frames``, for videos, one more dimension may stand in front.

    Raises:
        UnsupportedError: with what they are.
    """
    name = type(model).__name__
    if not isinstance(features, Tensor | list | tuple):
        raise UnsupportedError(f"{name}'s encoder gives no features per image (pooler_output is {_kind(features)})")
    dimensions = (2, 3) if frames else (2,)
    if any(not isinstance(image, Tensor) or image.ndim not in dimensions for image in features):
        shapes = sorted({str(list(image.shape)) if isinstance(image, Tensor) else _kind(image) for image in features})
        raise UnsupportedError(f"{name}'s encoder gives {', '.join(shapes[:3])} an image, not [tokens, width]")
    lengths = [len(image) for image in features]
    if any([len(image) for image in layer] != lengths for layer in layers):
        raise UnsupportedError(f"{name}'s deep-stack features are not one a token of each image")


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _shown(layers: list[Any]) -> str:
    return str(layers[0]) if len(layers) == 1 else str(layers)
