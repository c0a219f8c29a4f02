"""Whether embeddings sent to a text-only engine can stand for a checkpoint's pictures, found out before the first request."""

from __future__ import annotations

import inspect
from typing import Any

from PIL import Image

from trimkit.errors import UnsupportedError
from trimkit.models import Family
from trimkit.serving.encode.prompt import PromptRenderer
from trimkit.serving.server.messages import ImagePart, Message, TextPart

__all__ = ["check_positions", "placeholder_frame"]

_Frame = tuple[tuple[int, ...], tuple[int, ...]]
_PROBES = ((64, 64), (640, 320))  # any-resolution checkpoints take the two apart


def check_positions(model: Any, family: Family) -> None:
    """Refuse a language model that treats image tokens in a way that a text-only engine does not.

    Raises:
        UnsupportedError: 3-D positions, attention in both directions between image tokens, or features for later layers.
    """
    name = type(model).__name__
    if family.own_positions:
        raise UnsupportedError(
            f"{name} has 3-D positions (M-RoPE), and embeddings in front of an engine get those of text: use the plugin within "
            "vLLM, or transformers"
        )
    if "token_type_ids" in inspect.signature(type(model).forward).parameters:
        raise UnsupportedError(
            f"the image tokens of {name} attend in both directions, and embeddings in front of an engine only backwards: use "
            "the plugin within vLLM, or transformers"
        )
    if family.projects_inside:
        raise UnsupportedError(f"{name} projects image features inside its forward: use the plugin within vLLM")


def placeholder_frame(processor: Any, render: PromptRenderer, image_token_id: int) -> tuple[str, str]:
    """What the processor writes before and behind the placeholders of a picture that the chat template has not written.

    Raises:
        UnsupportedError: it is not the same for every picture, or stands between placeholders (rows, tiles).
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    shown = ImagePart(type="image_url", image_url="data:")
    around = render([Message(role="user", content=[shown, TextPart(type="text", text="?")])], 1)
    text = render.image_token.join(around.pieces)
    head, tail = (_ids(tokenizer, piece) for piece in around.pieces)
    if [*head, image_token_id, *tail] != _ids(tokenizer, text):
        raise _not_plain(processor)
    frames: set[_Frame | None] = set()
    for size in _PROBES:
        picture = Image.new("RGB", size, (120, 130, 140))
        found = processor(images=[picture], text=[text], add_special_tokens=False, return_tensors="pt", verbose=False)
        ids = found["input_ids"][0].tolist()
        if ids[: len(head)] != head or ids[len(ids) - len(tail) :] != tail:
            raise _not_plain(processor)
        frames.add(_frame(ids[len(head) : len(ids) - len(tail)], image_token_id))
    frame = frames.pop()
    if frames or frame is None:
        raise _not_plain(processor)
    before, after = ("".join(tokenizer.convert_ids_to_tokens(list(part))) for part in frame)
    if [_ids(tokenizer, before), _ids(tokenizer, after)] != [list(part) for part in frame]:
        raise _not_plain(processor)
    return before, after


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _frame(ids: list[int], placeholder: int) -> _Frame | None:
    """The ids before and behind one run of placeholders; None where there is not one run."""
    count = ids.count(placeholder)
    first = ids.index(placeholder) if count else 0
    if not count or ids[first : first + count] != [placeholder] * count:
        return None
    return tuple(ids[:first]), tuple(ids[first + count :])


def _not_plain(processor: Any) -> UnsupportedError:
    return UnsupportedError(
        f"{type(processor).__name__} writes marks between the tokens of a picture (rows, tiles), which embeddings in front of "
        "an engine do not carry: use the plugin within vLLM, or transformers"
    )
