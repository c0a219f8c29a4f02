"""What a family must say: encode images to tokens, project what is kept, and give positions where they are not 1-D."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trimkit.core.geometry import View, grid_view
from trimkit.core.types import ImageTokens
from trimkit.errors import UnsupportedError
from trimkit.models._arguments import argument_names
from trimkit.models._checks import check_feature_layers, check_features
from trimkit.models._forward_reads import model_reads
from trimkit.models._parts import VisionParts
from trimkit.models._signals import SignalSource

__all__ = ["AT_ONCE", "Family", "ModelInputs"]

ModelInputs = dict[str, Any]

AT_ONCE = 8
"""Pictures that go through the tower together. With more, its activations would be what a reduced request takes most memory
for."""


class Family:
    """Serves every model whose ``forward`` takes ``mm_encoder_outputs`` and gives features per image.

    The base works on features *after* the projector, which every such model can give; a family that can hand out the
    projector's input overrides ``encode`` and ``project``, so that the projector runs on kept tokens alone.

    Class attributes:
        model_types: the ``config.model_type`` values served; ``*`` is what no other file serves.
        title: for the catalogue.
        medium: what ``encode`` and its like are about: ``image``, or ``video`` in the class of a family's videos.
        videos: the same for the family's videos (see ``_videos``), or None where it takes none as such.
        video: whether videos are reduced, in the tests: through ``videos``, or because the model takes frames as images.
        reads: fields of the encoder's output that ``encoder_output`` hands over. A model whose ``forward`` reads others, or not
            the first of them, is refused.
        projects_inside: whether ``forward`` runs the projector on what it is handed, so that it gets the projector's input.
        cuts_by_axes: whether ``split`` cuts pixels by their axes alone, those before ``[C, H, W]`` or before the last of
            ``[P, D]``, and does not look at what is in them.
        native: whether the tower has a public text counterpart, so that relevance costs no second encoder.
        batch, training: whether ragged batches equal their rows, and the loss with labels the hand-built one, in the tests.
        tested: what the test suite proves here.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    title: ClassVar[str] = ""
    medium: ClassVar[str] = "image"
    videos: ClassVar[Family | None] = None
    video: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("pooler_output", "deepstack_features")
    projects_inside: ClassVar[bool] = False
    cuts_by_axes: ClassVar[bool] = True
    native: ClassVar[bool] = False
    batch: ClassVar[bool] = True
    training: ClassVar[bool] = True
    tested: ClassVar[str] = "keep-all, hand-built, ragged batch, beams, labels, geometry"

    def check(self, model: Any) -> None:
        """Refuse a model that cannot work, with the reason.

        Raises:
            UnsupportedError: as it says, or its config names layers of the vision tower that are not there.
        """
        name = type(model).__name__
        if not hasattr(self.base(model), "get_image_features"):
            raise UnsupportedError(f"{name} has no get_image_features: it is not a vision-language model")
        if "mm_encoder_outputs" not in inspect.signature(type(model).forward).parameters:
            raise UnsupportedError(
                f"{name}.forward takes no pre-encoded images (mm_encoder_outputs): its images do not stand in the token "
                "sequence (cross-attention), or transformers is older than 5.18"
            )
        if (reason := _REFUSED.get(getattr(model.config, "model_type", ""))) is not None:
            raise UnsupportedError(f"{name} {reason}: it is not covered")
        taken = inspect.signature(type(model).generate).parameters if hasattr(type(model), "generate") else {}
        if "pixel_values" in taken and taken["pixel_values"].default is inspect.Parameter.empty:
            raise UnsupportedError(
                f"{name}.generate encodes its images itself (BLIP-2 and its like), so that none can be handed to it reduced"
            )
        if not self.own_positions and hasattr(self.base(model), "get_rope_index"):
            raise UnsupportedError(f"{name} has 3-D positions (M-RoPE), which this family is not covered for yet")
        self._check_reads(model)
        check_feature_layers(model)

    def _check_reads(self, model: Any) -> None:
        """Refuse a ``forward`` that reads of pre-encoded images what ``encoder_output`` does not hold."""
        name = type(model).__name__
        fields = model_reads(self.base(model), self.handed_as()) | model_reads(model, self.handed_as())
        if not fields:
            if "*" in self.model_types:
                raise UnsupportedError(f"{name} does not say what its forward reads of encoded {self.medium}s")
            return  # wrapped, or without source: the family was tested
        missing = fields - set(self.reads)
        if missing or self.reads[0] not in fields:
            what = ", ".join(sorted(missing or fields))
            raise UnsupportedError(
                f"{name}.forward reads {what} of its encoded {self.medium}s, where {type(self).__name__} hands over "
                f"{' and '.join(self.reads)}: it is not covered"
            )

    @property
    def own_positions(self) -> bool:
        """Whether positions are not 1-D."""
        return type(self).positions is not Family.positions

    def first_position(self, model: Any) -> int:
        """Number of the first position in ``forward``; ``generate`` always counts from 0."""
        return 0

    def continues(self, model: Any) -> bool:
        """Whether a later turn of a conversation may be run on top of a cache cut back to what is the same."""
        return not self.own_positions

    def base(self, model: Any) -> Any:
        """The module that owns ``get_image_features``."""
        return model.base_model

    def encoder(self, model: Any) -> Callable[..., Any]:
        """The model's own image (or video) encoder."""
        encoder: Callable[..., Any] = getattr(self.base(model), f"get_{self.medium}_features")
        return encoder

    def image_token_id(self, model: Any) -> int:
        """Id of the placeholder token.

        Raises:
            UnsupportedError: the config names none.
        """
        for name in (f"{self.medium}_token_id", f"{self.medium}_token_index"):
            value = getattr(model.config, name, None)
            if value is not None:
                return int(value)
        raise UnsupportedError(
            f"{type(model).__name__}'s config names no {self.medium} token: its {self.medium}s are not placeholders"
        )

    def places(self, model: Any, inputs: ModelInputs) -> Tensor:
        """``[B, L]`` bool, where the placeholders of this medium stand."""
        return torch.as_tensor(inputs["input_ids"] == self.image_token_id(model))

    def handed_as(self) -> str:
        """The entry of ``mm_encoder_outputs`` that takes the features."""
        return self.medium

    def pixels(self, model: Any) -> str:
        """Name of the argument that holds the pictures: what the image encoder takes first."""
        return argument_names(self.encoder(model))[0]

    def encoder_arguments(self, model: Any, inputs: ModelInputs) -> ModelInputs:
        """Those of ``inputs`` that the image encoder takes; the language model does not need them afterwards."""
        accepted = argument_names(self.encoder(model))
        return {name: inputs[name] for name in accepted if name != "kwargs" and inputs.get(name) is not None}

    def separable(self, model: Any, arguments: ModelInputs) -> bool:
        """Whether ``split`` knows which rows are one image; where it does not, features are not cached."""
        return True

    def split(self, model: Any, arguments: ModelInputs) -> list[ModelInputs]:
        """Encoder arguments of every single image, for the cache. Rows of the first dimension are images."""
        count = len(arguments[self.pixels(model)])
        rows = {name: [value] * count if name in _FOR_ALL else _rows(value, count) for name, value in arguments.items()}
        return [{name: values[i] for name, values in rows.items()} for i in range(count)]

    def join(self, parts: Sequence[ModelInputs]) -> ModelInputs:
        """The inverse of ``split``."""
        if len(parts) == 1:
            return dict(parts[0])
        joined: ModelInputs = {}
        for name, first in parts[0].items():
            values = [part[name] for part in parts]
            joined[name] = torch.cat(values) if isinstance(first, Tensor) else first
        return joined

    def encode(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        """Tokens of every image, in order."""
        output = self.encoder(model)(**arguments, return_dict=True)
        layers = getattr(output, "deepstack_features", None) or ()
        if any(not isinstance(image, Tensor) for layer in layers for image in layer):
            raise UnsupportedError(
                f"{type(model).__name__} feeds images into several layers in a way that is not covered"
            )
        check_features(model, output.pooler_output, layers, frames=self.medium == "video")
        images = zip(output.pooler_output, *layers, strict=True)
        return [ImageTokens(features=image, layers=tuple(deeper)) for image, *deeper in images]

    def encode_parts(self, model: Any, parts: Sequence[ModelInputs]) -> list[ImageTokens]:
        """Tokens of images that ``split`` has taken apart, in order."""
        return self.encode(model, self.join(parts))

    def parts(self, model: Any) -> VisionParts | None:
        """What ``encode`` and ``project`` do as modules of their own, for another engine; None where they do more."""
        return None

    def tower_layers(self, model: Any) -> int:
        """Layers of the vision tower whose patches can be dropped in the middle, in ``finish``; 0 where they can't be."""
        return 0

    def follows_plans(self, model: Any) -> bool:
        """Whether ``encode`` takes a ``TowerPlan`` (``tower_plan`` in its arguments)."""
        return False

    def finish(self, model: Any, images: Sequence[ImageTokens], alive: Sequence[Tensor]) -> list[ImageTokens]:
        """Images that ``encode`` has left ``midway`` (``stop_after`` in its arguments), run on for what is ``alive``.

        Raises:
            UnsupportedError: the family's tower does not stop midway.
        """
        raise UnsupportedError(f"the vision tower of {type(model).__name__} runs in one piece: leave tower_keep= out")

    def views(self, model: Any, arguments: ModelInputs, image: ImageTokens) -> tuple[View, ...]:
        """What the encoder was given of one image, for a scorer that looks at pixels.

        Args:
            model: the model.
            arguments: the encoder's, of this image alone (see ``split``).
            image: its tokens.

        Raises:
            UnsupportedError: the family does not know where its tokens look.
        """
        pixels = arguments.get(self.pixels(model))
        if image.grid is None or not isinstance(pixels, Tensor) or pixels.ndim != 4 or len(pixels) != 1:
            raise UnsupportedError(
                f"where the tokens of {type(model).__name__} look is not known, so an external scorer cannot rank them: use "
                "a method that does not read the text"
            )
        return (grid_view(pixels[0], *image.grid),)

    def project(self, model: Any, features: Sequence[Tensor]) -> list[Tensor]:
        """Kept features of every image to the language model's width; here they have it already."""
        return list(features)

    def encoder_output(self, model: Any, features: list[Tensor], layers: Sequence[Sequence[Tensor]] = ()) -> Any:
        """What ``mm_encoder_outputs[handed_as()]`` is to be: features per image, and deep-stack features per layer and image.

        Fresh each time: ``generate`` changes it in place. ``features`` are projected, unless ``projects_inside``.
        """
        from trimkit.models._output import EncodedImages

        deeper = [list(layer) for layer in layers] or None
        return EncodedImages(pooler_output=features, deepstack_features=deeper)  # type: ignore[arg-type]

    def positions(self, model: Any, inputs: ModelInputs) -> Tensor | None:
        """``[axes, B, L]`` positions of the full sequence where they are not 1-D (M-RoPE), else None."""
        return None

    def place(self, model: Any, inputs: ModelInputs, positions: Tensor, *, generating: bool) -> None:
        """Put gathered ``positions`` ``[axes, B, L']`` into the shrunk ``inputs``."""

    def encoder_modules(self, model: Any) -> list[nn.Module]:
        """Modules whose change makes cached features stale."""
        found = [model]
        for module in found:  # it grows; each call does it: named_modules would go through the language model, too
            for name, each in module._modules.items():
                if each is not None and "language_model" not in name and "lm_head" not in name:
                    found.append(each)
        return found

    def signal_source(self, model: Any, arguments: ModelInputs) -> SignalSource | None:
        """The layers of the vision tower, whose attention and keys a method may ask for (``trimkit.core.signals``).

        None where the tower has no class token, or its patches are not the tokens one by one.
        """
        return None

    def tower(self, model: Any) -> Any:
        """Config of the CLIP tower whose features ``encode`` gives before the projector, or None where it gives others."""
        return None

    def default_clip(self, model: Any) -> str | None:
        """Hub id of the CLIP checkpoint that the tower was taken from, where it is known."""
        return None


_REFUSED = {
    "fuyu": "reads its image features from another place than all other models",
    "inkling_mm_model": "gives its image tokens one by one, without saying which are one image's",
}
_FOR_ALL = frozenset({"vision_feature_layer", "vision_feature_layers"})  # lists that are not one entry an image


def _rows(value: Any, count: int) -> Sequence[Any]:
    """What each of ``count`` images gets of a value."""
    if isinstance(value, (Tensor, list, tuple)) and len(value) == count:
        return torch.split(value, 1) if isinstance(value, Tensor) else [value[i : i + 1] for i in range(count)]
    return [value] * count
