"""What is measured: a model with pictures and questions for it. A random shape, or a checkpoint with packaged pictures."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import torch

from trimkit.bench import build
from trimkit.bench.formula import Sizes, sizes_of, sizes_of_shape
from trimkit.bench.kinds import kind_of
from trimkit.bench.shapes import Shape
from trimkit.pipeline.model_store import scorer_of
from trimkit.scorers import Scorer

__all__ = ["Checkpoint", "RandomModel", "Request", "Subject"]

_QUESTION = "What is the colour of the {} to the left of the {} people who wait at the bus stop in the rain?"
_THINGS = ("car", "bicycle", "dog", "lorry", "sign")


_NOISE = SimpleNamespace(image_mean=(0.5,) * 3, image_std=(0.5,) * 3)


@dataclass(frozen=True)
class Request:
    """One call: stock ``inputs``, and the questions where the prompt is not words."""

    inputs: dict[str, Any]
    query: list[str] | None = None


class Subject(Protocol):
    """A model on its device, its scorer (None: none is known) and what to ask it."""

    model: Any
    processor: Any
    scorer: Scorer | None
    pictures: int

    def request(self, batch: int, picture: int, question: int, new_tokens: int) -> Request:
        """A batch of rows with a picture each: set number ``picture`` of pictures, set number ``question`` of questions."""

    def sizes(self) -> Sizes | None:
        """For the formulas, where the architecture is one they cover."""


class RandomModel:
    """A shape with random weights, pictures of noise and prompts of random ids.

    Args:
        shape: what to build.
        pictures: of a prompt.
        text_tokens: of the prompt beside the picture.
        device, dtype: where and how; CLIP's text tower stays in float32 on the CPU, as for a checkpoint.
        seed: of weights and inputs.
    """

    def __init__(
        self, shape: Shape, text_tokens: int, device: torch.device, dtype: torch.dtype, seed: int, pictures: int = 1
    ) -> None:
        self._shape, self._text_tokens, self._seed = shape, text_tokens, seed
        self.pictures = pictures
        # How pixels were normalized, for a scorer that looks at them; there are no words to read.
        self.processor: Any = SimpleNamespace(tokenizer=None, image_processor=_NOISE) if shape.kind != "llava" else None
        self.model = build.build_llava(shape, device=device, dtype=dtype, seed=seed)
        scorer_dtype = torch.float32 if device.type == "cpu" else dtype
        self.scorer: Scorer | None = build.build_scorer(shape, device=device, dtype=scorer_dtype, seed=seed)

    def request(self, batch: int, picture: int, question: int, new_tokens: int) -> Request:
        shape, rows, count = self._shape, range(batch), batch * self.pictures
        generator = torch.Generator().manual_seed(hash((self._seed, 1, question)) % 2**31)
        low = build.IMAGE_TOKEN + 3  # above the marks that stand around pictures
        words = torch.randint(low, shape.vocabulary, (batch, self._text_tokens), generator=generator)
        places = torch.full((batch, shape.image_tokens), build.IMAGE_TOKEN)
        between = words[:, :1]  # one word tells one picture from the next
        blocks = [part for number in range(self.pictures) for part in ((between,) if number else ()) + (places,)]
        ids = torch.cat([words[:, :4], *blocks, words[:, 4:]], dim=1)
        noise = torch.Generator().manual_seed(hash((self._seed, 2, picture)) % 2**31)
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            **kind_of(shape).inputs(shape, count, noise),
        }
        if shape.merge > 1:
            inputs["mm_token_type_ids"] = (ids == build.IMAGE_TOKEN).int()
        placed = {name: value.to(self.model.device) for name, value in inputs.items()}
        placed["pixel_values"] = placed["pixel_values"].to(self.model.dtype)
        return Request(placed, [_question(question * batch + row) for row in rows])

    def sizes(self) -> Sizes | None:
        return sizes_of_shape(self._shape)


class Checkpoint:
    """A model from disk or from the hub, the packaged pictures (moved aside where there are too few) and their questions.

    Raises:
        TrimkitError: whatever ``trimkit.loading.load_model`` raises.
    """

    pictures = 1

    def __init__(self, name: str, device: str, dtype: str, scorer: str | None = None) -> None:
        from trimkit.demo import sample_images
        from trimkit.loading import load_model

        self.model, self.processor = load_model(name, device=device, dtype=dtype)
        self.scorer = scorer_of(self.model, scorer)
        self._samples = list(sample_images().values())

    def request(self, batch: int, picture: int, question: int, new_tokens: int) -> Request:
        from trimkit.ask import build_inputs

        pictures = [self._picture(picture * batch + row) for row in range(batch)]
        asked = [self._samples[(row + question) % len(self._samples)].question for row in range(batch)]
        inputs = build_inputs(self.model, self.processor, pictures, asked, max_new_tokens=new_tokens)
        return Request(dict(inputs))

    def sizes(self) -> Sizes | None:
        text_model = getattr(self.scorer, "text_model", None)
        return sizes_of(self.model.config, getattr(text_model, "config", None))

    def _picture(self, number: int) -> Any:
        from PIL import ImageChops

        from trimkit.images import load_image

        times, which = divmod(number, len(self._samples))
        return ImageChops.offset(load_image(self._samples[which].path), 7 * times, 0)


def _question(number: int) -> str:
    return _QUESTION.format(_THINGS[number % len(_THINGS)], number + 2)
