"""One picture to the arguments of a model's image encoder, through the checkpoint's own processor."""

from __future__ import annotations

from typing import Any

from trimkit.errors import ConfigError, InputError
from trimkit.models import Family, ModelInputs

__all__ = ["picture_arguments"]


def picture_arguments(family: Family, model: Any, processor: Any, picture: Any) -> ModelInputs:
    """Arguments of the image encoder for ``picture`` alone, on the model's device and in its dtype.

    The whole processor is run, around a prompt that holds nothing else: several processors tell their image processor things
    that only they know (Pixtral's patches, OneVision's number of images).

    Raises:
        InputError: it is no PIL image.
        ConfigError: there is no processor, or it names no placeholder.
    """
    from PIL import Image

    if not isinstance(picture, Image.Image):
        raise InputError(
            f"a picture is a {type(picture).__name__}: pass PIL images, or what the processor makes of them"
        )
    if processor is None:
        raise ConfigError("pictures need the checkpoint's processor: pass it, or what it makes of the pictures")
    inputs = processor(images=[picture], text=[_prompt(processor)], return_tensors="pt")
    return family.encoder_arguments(model, dict(inputs.to(model.device, model.dtype)))


def _prompt(processor: Any) -> str:
    """The shortest prompt with one picture in it."""
    if getattr(processor, "chat_template", None):
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}
        return str(processor.apply_chat_template([turn], tokenize=False))
    token = getattr(processor, "image_token", None)
    if token is None:
        raise ConfigError(
            f"{type(processor).__name__} has no chat template and names no image_token: pass what it makes of the pictures"
        )
    return str(token)
