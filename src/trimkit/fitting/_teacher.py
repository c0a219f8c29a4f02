"""The full model's part: it answers every question with all image tokens, once, and shows what it attended to meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimkit.ask import build_inputs
from trimkit.calibration import Pair, until_end
from trimkit.core.types import ImageTokens
from trimkit.errors import InputError, UnsupportedError
from trimkit.fitting._attention_read import reading_attention
from trimkit.fitting._records import PairRecord, PictureRecord, half
from trimkit.models import Family, family_of
from trimkit.pipeline.encoding import encode
from trimkit.pipeline.media import EncodedMedia, with_views
from trimkit.scorers import Scorer

__all__ = ["Teacher"]

_LIKELIEST = 128  # next tokens of which log-probabilities are kept; the rest counts as one


class Teacher:
    """One model.

    Args:
        model, processor: as ``trimkit.loading.load_model`` gives them.
        baseline: the scorer that the model has without fitting, or None.
        max_new_tokens: length limit of an answer.
    """

    def __init__(self, model: Any, processor: Any, baseline: Scorer | None, max_new_tokens: int) -> None:
        self._model, self._processor, self._baseline = model, processor, baseline
        self._length = max_new_tokens
        self.family: Family = family_of(model)

    def can_be_asked(self, pair: Pair) -> str:
        """Nothing, or why not."""
        try:
            build_inputs(self._model, self._processor, [pair.image], [pair.question], max_new_tokens=self._length)
        except InputError as error:
            return str(error)
        return ""

    @torch.no_grad()
    def record(self, pairs: Sequence[Pair]) -> PictureRecord:
        """All questions about one picture.

        Raises:
            UnsupportedError: the model's pictures or its attention are not of the kind that a scorer is fitted to.
        """
        questions = [pair.question for pair in pairs]
        images = [pair.image for pair in pairs]
        inputs = dict(build_inputs(self._model, self._processor, images, questions, max_new_tokens=self._length))
        taken = self.family.encoder_arguments(self._model, inputs)
        tokens = self._encoded(taken, len(pairs))
        columns = _columns(self.family.places(self._model, inputs), len(tokens))
        output, read = self._answered(inputs, taken, tokens, columns)
        width = inputs["input_ids"].shape[1]
        answers = output.sequences[:, width:].cpu()
        real = until_end(answers, self._model.generation_config.eos_token_id)
        logits = torch.stack([step.float() for step in output.logits], dim=1)
        likely = logits.log_softmax(dim=-1).topk(min(_LIKELIEST, logits.shape[-1]), dim=-1)
        before = self._baseline_relevance(taken, tokens, questions)
        found = []
        for row, question in enumerate(questions):
            ends = int(real[row].sum())
            found.append(
                PairRecord(
                    question,
                    {**self._prompt(inputs, taken, row), "answer": answers[row, :ends]},
                    likely.values[row, :ends].cpu(),
                    likely.indices[row, :ends].int().cpu(),
                    half(read.rows(row, ends)),
                    None if before is None else before[row],
                )
            )
        return PictureRecord(_stored(tokens), tuple(found))

    def _encoded(self, taken: dict[str, Any], count: int) -> ImageTokens:
        """The one picture of ``count`` equal prompts."""
        parts = self.family.split(self._model, taken) if self.family.separable(self._model, taken) else []
        images = encode(self.family, self._model, parts[0], None)[0] if len(parts) == count else []
        if len(images) != 1:
            raise UnsupportedError(
                f"{type(self._model).__name__} ranks the parts of a picture by themselves: a scorer cannot be fitted to it yet"
            )
        return images[0]

    def _answered(self, inputs: dict[str, Any], taken: dict[str, Any], image: ImageTokens, columns: Tensor) -> Any:
        """Greedy answers with their logits, and what was attended to."""
        count = len(columns)
        embeddings = [image.features if self.family.projects_inside else self._projected(image)] * count
        layers = [[layer] * count for layer in image.layers]
        given = {name: value for name, value in inputs.items() if name != self.family.pixels(self._model)}
        given["mm_encoder_outputs"] = {
            self.family.handed_as(): self.family.encoder_output(self._model, embeddings, layers)
        }
        with reading_attention(self._model, columns, inputs["input_ids"].shape[1]) as read:
            output = self._model.generate(
                **given,
                max_new_tokens=self._length,
                do_sample=False,
                num_beams=1,
                output_logits=True,
                return_dict_in_generate=True,
            )
        return output, read

    def _projected(self, image: ImageTokens) -> Tensor:
        return self.family.project(self._model, [image.features])[0]

    def _prompt(self, inputs: dict[str, Any], taken: dict[str, Any], row: int) -> dict[str, Tensor]:
        """The row's ids without padding, and what describes its picture beside the pixels (a grid's size)."""
        mask = inputs["attention_mask"][row].bool()
        pixels = self.family.pixels(self._model)
        extra = {
            f"extra.{name}": value[row].cpu()
            for name, value in taken.items()
            if name != pixels and isinstance(value, Tensor) and len(value) == len(inputs["input_ids"])
        }
        return {"input_ids": inputs["input_ids"][row][mask].cpu(), **extra}

    def _baseline_relevance(
        self, taken: dict[str, Any], image: ImageTokens, questions: Sequence[str]
    ) -> list[Tensor] | None:
        """``[N]`` each, higher = more relevant, as the scorer's own profile reads it."""
        scorer = self._baseline
        if scorer is None:
            return None
        if getattr(scorer, "needs_views", False):
            one = self.family.split(self._model, taken)[0]
            media = EncodedMedia(self.family, one, [image], [False], torch.zeros(0, 0, dtype=torch.bool))
            image = with_views(self._model, self._processor, media).images[0]
        profile = scorer.profile
        rows = scorer.similarity([image] * len(questions), list(questions), normalize=profile.normalize)
        return [(row * profile.sign / profile.temperature).float().cpu() for row in rows]


def _columns(places: Tensor, total: int) -> Tensor:
    """``[B, N]``."""
    counts = places.sum(dim=1).tolist()
    if any(count != total for count in counts):
        raise UnsupportedError(f"a prompt has {counts[0]} placeholders for a picture of {total} tokens: it is not covered")
    return places.nonzero()[:, 1].view(len(counts), total)


def _stored(image: ImageTokens) -> ImageTokens:
    """The tokens in half precision on the host, without what a scorer does not read."""
    plain = ImageTokens(half(image.features).cpu(), image.grid, image.key, (), image.tower_columns)
    return replace(plain, layers=tuple(half(layer).cpu() for layer in image.layers))
