"""LLaVA-1.5 and VipLLaVA: one CLIP tower, 576 patch features, a projector that then runs on kept tokens alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimkit.core.transfer import stacked, upload
from trimkit.core.types import ImageTokens, Midway
from trimkit.errors import UnsupportedError
from trimkit.models._base import AT_ONCE, Family, ModelInputs
from trimkit.models._clip_tower import go_on, layer_states, resized_states, run_stepwise
from trimkit.models._parts import ClipFeatures, VisionParts
from trimkit.models._signals import SignalSource, signal_source

__all__ = ["Llava"]

_SCORED = -2  # the layer that TRIM compares with the text


class Llava(Family):
    """Features are the projector's input: the tower's ``vision_feature_layer`` without CLS, or several layers side by side.

    With another tower than CLIP (Pixtral in LLaVA's shell) the features after the projector serve, as in ``generic``.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llava", "vipllava")
    title: ClassVar[str] = "LLaVA-1.5, VipLLaVA"
    native: ClassVar[bool] = True
    tested: ClassVar[str] = "keep-all, hand-built, ragged batch, beams, labels, geometry, demo model"

    def encode(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        if not self._before_projector(model):
            return [
                replace(image, grid=_siglip_grid(model.config, image)) for image in super().encode(model, arguments)
            ]
        config = model.config
        layer = arguments.get("vision_feature_layer", _feature_layer(config))
        default = getattr(config, "vision_feature_select_strategy", "default")  # VipLLaVA has no other
        strategy = arguments.get("vision_feature_select_strategy", default)
        tower = self.base(model).vision_tower
        if "stop_after" in arguments:
            return self._begin(model, arguments)
        if "tower_plan" in arguments:
            return self._planned(model, arguments)
        without_cls = strategy == "default"
        layers = [layer] if isinstance(layer, int) else list(layer)
        hidden = layer_states(tower, arguments["pixel_values"], layers)
        states = hidden[layers[0]] if len(layers) == 1 else torch.cat([hidden[i] for i in layers], dim=-1)
        features = states[:, 1:] if without_cls else states
        side = config.vision_config.image_size // config.vision_config.patch_size
        grid = (side, side) if features.shape[1] == side * side else None
        width = features.shape[-1] // len(layers)
        start = width * (layers.index(_SCORED) if _SCORED in layers else 0)
        columns = None if len(layers) == 1 else (start, start + width)
        return [
            # The class token's state is not handed on.
            ImageTokens(image, grid, tower_columns=columns, signals={"cls_state": own} if without_cls else {})
            for image, own in zip(features, states[:, 0], strict=True)
        ]

    def project(self, model: Any, features: Sequence[Tensor]) -> list[Tensor]:
        if not self._before_projector(model):
            return super().project(model, features)
        projector = self.base(model).multi_modal_projector
        lengths = [len(image) for image in features]
        if len(set(lengths)) == 1:  # the stock call's shape, so that everything kept is equal to the last bit
            return list(projector(stacked(features)))
        return list(projector(torch.cat(list(features))).split(lengths))

    def parts(self, model: Any) -> VisionParts | None:
        if not self._before_projector(model):
            return None
        config, base, vision = model.config, self.base(model), model.config.vision_config
        layer = _feature_layer(config)
        layers = [layer] if isinstance(layer, int) else list(layer)
        first = int(getattr(config, "vision_feature_select_strategy", "default") == "default")
        side, width = vision.image_size // vision.patch_size, vision.hidden_size
        start = width * (layers.index(_SCORED) if _SCORED in layers else 0)
        return VisionParts(
            tower=ClipFeatures(base.vision_tower, layers, first),
            projector=base.multi_modal_projector,
            grid=(side, side) if first else None,
            tower_columns=None if len(layers) == 1 else (start, start + width),
            side=vision.image_size,
        )

    def tower_layers(self, model: Any) -> int:
        config = model.config
        layer = _feature_layer(config)
        plain = getattr(config, "vision_feature_select_strategy", "default") == "default" and isinstance(layer, int)
        if not (self._before_projector(model) and plain):
            return 0
        return int(layer if layer >= 0 else config.vision_config.num_hidden_layers + 1 + layer)

    def finish(self, model: Any, images: Sequence[ImageTokens], alive: Sequence[Tensor]) -> list[ImageTokens]:
        """Images with as many patches alive are run on together."""
        tower, last = self.base(model).vision_tower, self.tower_layers(model)
        groups: dict[tuple[int, int], list[int]] = {}
        for i, (image, mask) in enumerate(zip(images, alive, strict=True)):
            groups.setdefault((image.midway.layers if image.midway else last, int(mask.sum())), []).append(i)
        done: dict[int, ImageTokens] = {}
        for (layers, _), group in groups.items():
            for start in range(0, len(group), AT_ONCE):
                part = group[start : start + AT_ONCE]
                states = torch.stack([_state(images[i], alive[i]) for i in part])
                for i, state in zip(part, go_on(tower, states, layers, last), strict=True):
                    done[i] = _finished(images[i], alive[i], state)
        return [done[i] for i in range(len(images))]

    def follows_plans(self, model: Any) -> bool:
        return self.tower_layers(model) > 0

    def _planned(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        """Images whose way through the tower a method has planned."""
        if {"vision_feature_layer", "vision_feature_select_strategy"} & set(arguments):
            raise UnsupportedError("this method reads the layer that the model's config names: do not pass another one")
        plan, pixels, tower = arguments["tower_plan"], arguments["pixel_values"], self.base(model).vision_tower
        side = model.config.vision_config.image_size // model.config.vision_config.patch_size
        last = self.tower_layers(model)
        if plan.step is not None:
            found = run_stepwise(tower, pixels, last, plan.step)
        else:
            grid = plan.grid(side, side)
            small = resized_states(tower, pixels, grid, last)[:, 1:]
            middles = upload(_cell_middles((side, side), grid), small.device)
            whole = small.new_zeros(len(small), side * side, small.shape[-1]).index_copy(1, middles, small)
            found = [(each, middles) for each in whole]
        none = torch.zeros(side * side, dtype=torch.bool, device=pixels.device)
        images = [(each, none.index_fill(0, places, True), len(places)) for each, places in found]
        return [
            ImageTokens(each, (side, side), alive=alive, alive_count=count, signals={"alive": alive})
            for each, alive, count in images
        ]

    def _begin(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        if {"vision_feature_layer", "vision_feature_select_strategy"} & set(arguments):
            raise UnsupportedError("tower_keep= reads the layer that the model's config names: do not pass another one")
        stop = arguments["stop_after"]
        state = layer_states(self.base(model).vision_tower, arguments["pixel_values"], [stop])[stop]
        side = model.config.vision_config.image_size // model.config.vision_config.patch_size
        grid = (side, side) if state.shape[1] == side * side + 1 else None
        return [ImageTokens(features=each[1:], grid=grid, midway=Midway(stop, each[:1])) for each in state]

    def signal_source(self, model: Any, arguments: ModelInputs) -> SignalSource | None:
        if not self._before_projector(model):
            return None
        return signal_source(
            self.base(model).vision_tower, arguments.get("vision_feature_layer", _feature_layer(model.config))
        )

    def tower(self, model: Any) -> Any:
        return model.config.vision_config if self._before_projector(model) else None

    def default_clip(self, model: Any) -> str | None:
        vision = model.config.vision_config
        is_large_336 = (vision.model_type, vision.hidden_size, vision.image_size, vision.patch_size) == (
            "clip_vision_model",
            1024,
            336,
            14,
        )
        return "openai/clip-vit-large-patch14-336" if is_large_336 else None

    def _before_projector(self, model: Any) -> bool:
        return bool(model.config.vision_config.model_type == "clip_vision_model")


def _cell_middles(grid: tuple[int, int], cells: tuple[int, int]) -> list[int]:
    """The tokens in the middle of each of so many rows and columns of cells, ascending."""
    rows, columns = (
        [(2 * n + 1) * of // (2 * some) for n in range(some)] for of, some in zip(grid, cells, strict=True)
    )
    return [row * grid[1] + column for row in rows for column in columns]


def _state(image: ImageTokens, alive: Tensor) -> Tensor:
    """``[h + k, D]`` what the tower goes on with."""
    head = image.features[:0] if image.midway is None else image.midway.head
    return torch.cat([head, image.features[alive]])


def _finished(image: ImageTokens, alive: Tensor, state: Tensor) -> ImageTokens:
    head = 0 if image.midway is None else len(image.midway.head)
    places = alive.nonzero().squeeze(1)
    features = image.features.index_copy(0, places, state[head:].to(image.features.dtype))
    return replace(image, features=features, midway=None, alive=alive, alive_count=len(places))


def _siglip_grid(config: Any, image: ImageTokens) -> tuple[int, int] | None:
    """The grid behind the projector, where the tower is SigLIP's, which has no class token."""
    vision = config.vision_config
    if vision.model_type != "siglip_vision_model":
        return None
    side = vision.image_size // vision.patch_size
    return (side, side) if len(image) == side * side else None


def _feature_layer(config: Any) -> Any:
    """Which layers the projector gets; VipLLaVA's setting has had two names."""
    found = getattr(config, "vision_feature_layer", None)
    return getattr(config, "vision_feature_layers", None) if found is None else found
