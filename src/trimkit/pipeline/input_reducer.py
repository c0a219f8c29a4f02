"""From a request to its ``ReducedInputs``: encode the images, choose, project what is kept, shorten the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.core.prompt_layout import PromptLayout, check_mask, pad_left, plan_prompt
from trimkit.core.types import ImageTokens, Selection
from trimkit.errors import InputError, UnsupportedError
from trimkit.methods import Method, get_method
from trimkit.models import Family, ModelInputs, family_of
from trimkit.pipeline.call_settings import CallSettings, in_full_precision, refuse_unplanned
from trimkit.pipeline.choosing import Chooser
from trimkit.pipeline.chosen_images import ChosenImages
from trimkit.pipeline.encoding import encode
from trimkit.pipeline.host_inputs import on_host
from trimkit.pipeline.media import (
    EarlierMedia,
    EncodedMedia,
    ImageQueries,
    MediaItem,
    encoder_inputs,
    given_media,
    placeholders_of,
    question_ids,
    refuse_video,
    unplaced,
    with_earlier,
)
from trimkit.pipeline.model_store import feature_cache_of
from trimkit.pipeline.padding import padding_id, padding_owners, padding_side, plain_positions
from trimkit.pipeline.reduced_inputs import ReducedInputs
from trimkit.pipeline.reduction_checks import check_reduction, refuse_positions
from trimkit.pipeline.selecting import reduced_images
from trimkit.pipeline.square_padding import mark_padding
from trimkit.pipeline.stage_clock import StageClock
from trimkit.scorers import Scorer

__all__ = ["InputReducer"]


class InputReducer:
    """Turns model inputs with pixels into shorter ones with reduced, pre-encoded images and videos.

    Args:
        model: the model.
        processor: its processor or None.
        method, options: as ``trimkit.reduce`` takes them.
        scorer: likewise; resolved on first use, since a text-free method needs none.
        settings: how calls are reduced.

    Raises:
        ConfigError, UnsupportedError: what cannot be.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        method: str | Method,
        scorer: Scorer | nn.Module | str | Path | None,
        settings: CallSettings,
        options: dict[str, Any],
    ) -> None:
        self.family = family_of(model)
        self._settings = settings
        refuse_positions(self.family, settings)
        self.method = get_method(method, **options)
        check_reduction(self.family, model, self.method, settings)
        self.cache = feature_cache_of(model, settings.cache_images)
        self._model = model
        self.chooser = Chooser(model, self.family, processor, self.method, scorer, settings)
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._image_token_id = self.family.image_token_id(model)

    @property
    def media(self) -> list[Family]:
        """What serves images and, where the family has it, videos."""
        return [self.family] if self.family.videos is None else [self.family, self.family.videos]

    def clear_caches(self) -> None:
        """Forget image features, and what a scorer holds of questions."""
        self.cache.clear()
        self.chooser.clear_cache()

    def has_images(self, inputs: ModelInputs) -> bool:
        """Whether there are pixels to encode."""
        return bool(given_media(self.family, self._model, inputs))

    def placeholder_ids(self) -> list[int]:
        """Ids that stand for images and videos."""
        return [medium.image_token_id(self._model) for medium in self.media]

    def reduce(
        self,
        inputs: ModelInputs,
        query: str | Sequence[str] | None,
        clock: StageClock,
        *,
        generating: bool,
        earlier: EarlierMedia | None = None,
    ) -> ReducedInputs:
        """The request, reduced.

        Args:
            inputs: what the stock call would be given; ``input_ids`` ``[B, L]``.
            query: the question, one or one a row; None to read it from the prompt.
            clock: adds up the time of each stage.
            generating: for ``generate``: padded on the left, positions as ``generate`` takes them.
            earlier: pictures of earlier turns, which the caller need not pass again.
        """
        ids = inputs["input_ids"]
        given = given_media(self.family, self._model, inputs)
        read = [(medium, medium.encoder_arguments(self._model, inputs)) for medium in given if self._hashes]
        host = on_host(inputs, self._model, read)
        with clock.stage("vision"):
            media = self._encode_all(inputs, host, given, earlier)
        scorer = self.chooser.scorer()
        items = self.chooser.items(media, scorer)
        with clock.stage("text"), in_full_precision(ids.device):
            prompts = question_ids(host["input_ids"], media, self._image_token_id)
            asked = self.chooser.queries(host, prompts, items, query, earlier)
            choosing = self.chooser.read(asked.queries, scorer)
        chosen = self.choose(items, choosing, scorer, clock)
        with clock.stage("shrink", follows=True):
            placeholders = placeholders_of(media) if media else torch.zeros_like(host["input_ids"], dtype=torch.bool)
            layout = self._plan(inputs, host, placeholders, chosen.selections, generating)
            out = self._shortened(inputs, host, media, layout, generating)
        if chosen.outputs:
            out["mm_encoder_outputs"] = {**(inputs.get("mm_encoder_outputs") or {}), **chosen.outputs}
        return ReducedInputs(
            model_inputs=out,
            layout=layout,
            placeholders_before=placeholders,
            items=chosen.items,
            queries=asked.queries,
            selections=chosen.selections,
            kept=chosen.kept,
            embeddings=chosen.embeddings,
            encoded=[each.without_arguments() for each in media],
            method=self.method.name,
            seconds=clock.seconds,
            notes=asked.notes,
            renderer=self.chooser.renderer(media),
        )

    def reduce_images(
        self, arguments: ModelInputs, rows: Sequence[int], queries: Sequence[ImageQueries], clock: StageClock
    ) -> ChosenImages:
        """Images without a prompt, reduced.

        Args:
            arguments: of the image encoder.
            rows: the picture's number of every image that is ranked.
            queries: the questions about each.
            clock: adds up the time of each stage.
        """
        host = on_host({}, self._model, [(self.family, arguments)] if self._hashes else [])
        with clock.stage("vision"):
            images, cached = self.encode(self.family, arguments, host)
        scorer = self.chooser.scorer()
        media = EncodedMedia(self.family, arguments, images, cached, torch.zeros(0, 0, dtype=torch.bool))
        items = [item for each in self.chooser.ranked([media], scorer) for item in unplaced(each, rows)]
        with clock.stage("text"), in_full_precision(self._model.device):
            choosing = self.chooser.read(queries, scorer)
        return self.choose(items, choosing, scorer, clock)

    def choose(
        self, items: list[MediaItem], queries: Sequence[ImageQueries], scorer: Scorer | None, clock: StageClock
    ) -> ChosenImages:
        """Choose among encoded images, and project what is kept."""
        items = self.chooser.finished(items, queries, scorer, clock)
        device = items[0].image.features.device if items else torch.device("cpu")
        with clock.stage("select"), in_full_precision(device):
            selections = self.chooser.select(items, queries, scorer)
        with clock.stage("shrink", follows=True):
            kept = reduced_images([item.image for item in items], selections)
        with clock.stage("project", follows=True):
            embeddings, outputs = self._project(items, kept)
        return ChosenImages(items, selections, kept, embeddings, outputs)

    def encode(
        self, family: Family, arguments: ModelInputs, host: ModelInputs | None = None
    ) -> tuple[list[ImageTokens], list[bool]]:
        """Tokens of every image or video, and which came from the cache; ``host`` has arguments that are on the host."""
        if self.chooser.tower is not None:
            arguments |= self.chooser.tower.arguments()
        engine = self._settings.vision_engine
        if not self._hashes:
            return encode(family, self._model, arguments, None, engine=engine)
        if (plan := self.method.tower_plan) is not None:
            refuse_unplanned(family, self._model, self.method)  # a video's family may be another one
            arguments |= {"tower_plan": plan}
        found, cached = encode(family, self._model, arguments, self.cache, self.method.asked_signals, host, engine)
        if self._settings.padding == "skip":
            found = mark_padding(family, self._model, arguments, found)
        return found, cached

    @property
    def _hashes(self) -> bool:
        """Whether pictures are known by what is in them."""
        return not self.method.keeps_all

    def _encode_all(
        self, inputs: ModelInputs, host: ModelInputs, given: Sequence[Family], earlier: EarlierMedia | None
    ) -> list[EncodedMedia]:
        """The images and the videos of the prompts, with those of earlier turns."""
        refuse_video(self.family, self._model, inputs)
        media = [self._encoded(medium, inputs, host) for medium in given]
        if earlier is None:
            return media
        before = [medium for medium in self.media if earlier.of_medium(medium.medium) and medium not in given]
        media += [EncodedMedia(medium, {}, [], [], medium.places(self._model, host)) for medium in before]
        return [self._with_earlier(each, earlier) for each in media]

    def _encoded(self, family: Family, inputs: ModelInputs, host: ModelInputs) -> EncodedMedia:
        arguments = family.encoder_arguments(self._model, inputs)
        images, cached = self.encode(family, arguments, host)
        return EncodedMedia(family, arguments, images, cached, family.places(self._model, host))

    def _with_earlier(self, media: EncodedMedia, earlier: EarlierMedia) -> EncodedMedia:
        """With the images of earlier turns, where they were not passed again."""
        joined, taken = with_earlier(earlier, media)
        if taken and (self.family.own_positions or self.chooser.needs_views):
            raise InputError("this model's earlier pictures are needed again: pass every picture of the conversation")
        return joined

    def _project(self, items: Sequence[MediaItem], kept: Sequence[ImageTokens]) -> tuple[list[Tensor], dict[str, Any]]:
        """Embeddings of every item, and the same as ``mm_encoder_outputs``."""
        groups: dict[str, dict[Family, list[int]]] = {}
        for i, item in enumerate(items):
            groups.setdefault(item.family.handed_as(), {}).setdefault(item.family, []).append(i)
        embeddings: dict[int, Tensor] = {}
        outputs = {}
        for name, families in groups.items():
            places = sorted(i for group in families.values() for i in group)
            for family, group in families.items():
                projected = family.project(self._model, [kept[i].features for i in group])
                embeddings.update(zip(group, projected, strict=True))
            layers = list(zip(*(kept[i].layers for i in places), strict=True))
            family = next(iter(families))
            handed = [kept[i].features if family.projects_inside else embeddings[i] for i in places]
            outputs[name] = family.encoder_output(self._model, handed, layers)
        return [embeddings[i] for i in range(len(items))], outputs

    def _plan(
        self,
        inputs: ModelInputs,
        host: ModelInputs,
        placeholders: Tensor,
        selections: Sequence[Selection],
        generating: bool,
    ) -> PromptLayout:
        """How the prompt is shortened; ``placeholders`` and ``host`` are on the host, the layout is beside ``inputs``."""
        mask, device = host.get("attention_mask"), inputs["input_ids"].device
        if not all(selection.keeps_all for selection in selections):
            check_mask(mask)
        elif not (isinstance(mask, Tensor) and mask.ndim == 2):
            mask = None  # it goes to the model as it is, beside all of the tokens
        if self.method.prunes_llm and generating and mask is not None and not bool(mask[:, -1].all()):
            return pad_left(inputs["attention_mask"])
        side = padding_side(mask, self._tokenizer, generating)
        multiple = self._settings.pad_to_multiple_of
        ends = not generating
        layout = plan_prompt(placeholders, mask, 1, selections, side, keep_end=ends, multiple=multiple, device=device)
        if not layout.identity and isinstance(inputs.get("logits_to_keep"), Tensor):
            raise UnsupportedError(
                "logits_to_keep counts columns that are cut: pass a number of last ones, not indices"
            )
        return layout.padded_to(self._settings.bucket(layout.length), side)

    def _shortened(
        self,
        inputs: ModelInputs,
        host: ModelInputs,
        media: list[EncodedMedia],
        layout: PromptLayout,
        generating: bool,
    ) -> ModelInputs:
        """Inputs without pixels, cut by ``layout``, with positions where the family has its own."""
        done = encoder_inputs(self._model, media, pixels_only=layout.identity)
        if layout.identity:
            return {name: value for name, value in inputs.items() if name not in done}
        positions = self.family.positions(self._model, inputs)
        model, ids = self._model, inputs["input_ids"]
        cut = layout.apply(inputs, padding_id(padding_owners(model, self._tokenizer), *self.placeholder_ids()), host)
        out = {name: value for name, value in cut.items() if name not in done}
        if positions is not None:
            self.family.place(self._model, out, layout.take(positions, 0), generating=generating)
        elif self._settings.positions == "original":
            first = 0 if generating else self.family.first_position(model)
            out["position_ids"] = layout.take(plain_positions(ids, inputs.get("attention_mask")), 0) + first
        return out
