"""The full model's part: it answers every question with all image tokens, once, and shows what it attended to meanwhile."""

from __future__ import annotations

import inspect
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

__all__ = ["Teacher", "refuse_token_types"]

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
        self.device: torch.device = model.device

    def can_be_asked(self, pair: Pair) -> str:
        """Nothing, or why not."""
        try:
            build_inputs(self._model, self._processor, [pair.image], [pair.question], max_new_tokens=self._length)
        except InputError as error:
            return str(error)
        return ""

    @torch.no_grad()
    def records(self, groups: Sequence[Sequence[Pair]]) -> list[PictureRecord]:
        """All questions about some pictures, whose tokens are equally many.

        Raises:
            UnsupportedError: the model's pictures or its attention are not of the kind that a scorer is fitted to.
        """
        pairs = [pair for group in groups for pair in group]
        owners = [number for number, group in enumerate(groups) for _ in group]
        texts, images = [pair.question for pair in pairs], [pair.image for pair in pairs]
        inputs = dict(build_inputs(self._model, self._processor, images, texts, max_new_tokens=self._length))
        refuse_token_types(self._model, inputs)
        taken = self.family.encoder_arguments(self._model, inputs)
        parts = self.family.split(self._model, taken) if self.family.separable(self._model, taken) else []
        firsts = [owners.index(number) for number in range(len(groups))]
        encoded = self._encoded([parts[row] for row in firsts] if len(parts) == len(pairs) else [], len(groups))
        if len({len(image) for image in encoded}) > 1:
            return [record for group in groups for record in self.records([group])]
        rows = [encoded[owner] for owner in owners]
        output, read = self._answered(inputs, rows)
        before = self._baseline_relevance([parts[row] for row in firsts], encoded, owners, texts)
        answers = output.sequences[:, inputs["input_ids"].shape[1] :].cpu()
        lengths = until_end(answers, self._model.generation_config.eos_token_id).sum(dim=1).tolist()
        logp = torch.stack([step.float() for step in output.logits], dim=1).log_softmax(dim=-1)
        likely = logp.topk(min(_LIKELIEST, logp.shape[-1]), dim=-1)
        values, tokens = likely.values.cpu(), likely.indices.int().cpu()
        found: list[list[PairRecord]] = [[] for _ in groups]
        for row, (owner, ends) in enumerate(zip(owners, lengths, strict=True)):
            prompt = {**self._prompt(inputs, taken, row), "answer": answers[row, :ends]}
            attention = half(read.rows(row, ends))
            pair = PairRecord(texts[row], prompt, values[row, :ends], tokens[row, :ends], attention, before[row])
            found[owner].append(pair)
        return [PictureRecord(_stored(image), tuple(own)) for image, own in zip(encoded, found, strict=True)]

    def _encoded(self, parts: Sequence[dict[str, Any]], count: int) -> list[ImageTokens]:
        """The tokens of ``count`` pictures."""
        images = encode(self.family, self._model, self.family.join(parts), None)[0] if parts else []
        if len(images) != count:
            raise UnsupportedError(
                f"{type(self._model).__name__} ranks the parts of a picture by themselves: a scorer cannot be fitted to it yet"
            )
        return images

    def _answered(self, inputs: dict[str, Any], images: Sequence[ImageTokens]) -> Any:
        """Greedy answers with their logits, and what was attended to."""
        columns = _columns(self.family.places(self._model, inputs), len(images[0]))
        features = [image.features for image in images]
        embeddings = features if self.family.projects_inside else self.family.project(self._model, features)
        layers = list(zip(*(image.layers for image in images), strict=True))
        given = {name: value for name, value in inputs.items() if name != self.family.pixels(self._model)}
        given["mm_encoder_outputs"] = {
            self.family.handed_as(): self.family.encoder_output(self._model, list(embeddings), layers)
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
        self,
        parts: Sequence[dict[str, Any]],
        images: Sequence[ImageTokens],
        owners: Sequence[int],
        questions: Sequence[str],
    ) -> list[Tensor] | list[None]:
        """``[N]`` a question, higher = more relevant, as the scorer's own profile reads it."""
        scorer = self._baseline
        if scorer is None:
            return [None] * len(questions)
        if getattr(scorer, "needs_views", False):
            images = [self._with_views(part, image) for part, image in zip(parts, images, strict=True)]
        profile = scorer.profile
        rows = scorer.similarity([images[i] for i in owners], list(questions), normalize=profile.normalize)
        return [(row * profile.sign / profile.temperature).float().cpu() for row in rows]

    def _with_views(self, part: dict[str, Any], image: ImageTokens) -> ImageTokens:
        media = EncodedMedia(self.family, part, [image], [False], torch.zeros(0, 0, dtype=torch.bool))
        return with_views(self._model, self._processor, media).images[0]


def refuse_token_types(model: Any, inputs: dict[str, Any]) -> None:
    """Refuse a model that is told token by token which part of a prompt is read in both directions.

    Raises:
        UnsupportedError: an answer led along by hand would be read in another way than a generated one.
    """
    if "token_type_ids" in inputs and "token_type_ids" in inspect.signature(type(model).forward).parameters:
        raise UnsupportedError(
            f"{type(model).__name__} reads part of its prompts in both directions: a scorer cannot be fitted to it yet"
        )


def _columns(places: Tensor, total: int) -> Tensor:
    """``[B, N]``."""
    counts = places.sum(dim=1).tolist()
    if any(count != total for count in counts):
        raise UnsupportedError(
            f"a prompt has {counts[0]} placeholders for a picture of {total} tokens: it is not covered"
        )
    return places.nonzero()[:, 1].view(len(counts), total)


def _stored(image: ImageTokens) -> ImageTokens:
    """The tokens in half precision on the host, without what a scorer does not read."""
    plain = ImageTokens(half(image.features).cpu(), image.grid, image.key, (), image.tower_columns)
    return replace(plain, layers=tuple(half(layer).cpu() for layer in image.layers))
