"""One reduced call: encode the images, choose, project what is kept, shorten the prompt, and time each stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.errors import ConfigError, InputError, UnsupportedError
from trimkit.integrations import _media
from trimkit.integrations._chat import Fed, Held, Pictures, with_earlier
from trimkit.integrations._choosing import Chooser
from trimkit.integrations._inputs import (
    CallSettings,
    check_signals,
    in_full_precision,
    padding_id,
    padding_side,
    plain_positions,
    refuse_cache,
)
from trimkit.integrations._inside import Decoder, Inside, everything
from trimkit.integrations._inside_layout import Prompts
from trimkit.integrations._media import Seen
from trimkit.integrations._stages import Call
from trimkit.methods import Method, get_method
from trimkit.models import Family, ModelInputs, family_of
from trimkit.reducer import reduced_image
from trimkit.scorers import Scorer
from trimkit.shrink import ShrinkPlan, check_mask, pad_left, plan_shrink
from trimkit.types import Report, Selection

__all__ = ["Pipeline", "Reduced"]


@dataclass(frozen=True)
class Reduced:
    """What a call becomes.

    Attributes:
        inputs: for the stock method.
        plan: how the prompt was shortened.
        fed: what stands at the placeholders that are left.
        pictures: the images and videos of the prompts, and what was asked of them.
    """

    inputs: ModelInputs
    plan: ShrinkPlan
    fed: Fed
    pictures: Pictures


class Pipeline:
    """Turns model inputs with pixels into shorter ones with reduced, pre-encoded images and videos.

    Args:
        model: the model.
        processor: its processor or None.
        method, options: as ``trimkit.reduce`` takes them.
        scorer: likewise; resolved on first use, since a text-free method needs none.
        settings: how calls are reduced.
        options: the method's own.

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
        self._refuse_positions()
        self.method = get_method(method, **options)
        check_signals(self.family, model, self.method)
        self.cache = settings.cache()
        self._model = model
        self._chooser = Chooser(model, self.family, processor, self.method, scorer, settings)
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._image_token_id = self.family.image_token_id(model)
        self._pixels = tuple(medium.pixels(model) for medium in self._media())
        inside = self.method.stage == "llm" and not self.method.keeps_all
        self.decoder = Decoder(model, self.method) if inside else None
        if inside and (settings.positions == "contiguous" or settings.turns != "refresh"):
            raise ConfigError(
                f"method {self.method.name!r} keeps positions and asks anew in every turn: leave positions= and turns= out"
            )

    def clear_caches(self) -> None:
        """Forget image features, and what a scorer holds of questions."""
        self.cache.clear()
        self._chooser.clear_cache()

    def clock(self) -> float:
        """Seconds; waits for a GPU first, so that a stage's time is its own."""
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)
        return time.perf_counter()

    def has_images(self, inputs: ModelInputs) -> bool:
        """Whether there are pixels to encode."""
        return bool(_media.given_media(self.family, self._model, inputs))

    def is_plain(self, inputs: ModelInputs) -> bool:
        """Whether there are neither pixels nor encoded images, nor a question: a decoding step, or text alone."""
        return all(inputs.get(name) is None for name in (*self._pixels, "mm_encoder_outputs", "query"))

    def refuse_cache(self, inputs: ModelInputs) -> None:
        """See ``_inputs.refuse_cache`` and, for a video where none is covered, ``_media.refuse_video``."""
        _media.refuse_video(self.family, self._model, inputs)
        for token in self.placeholders():
            refuse_cache(inputs, token, self.has_images(inputs))

    def reduce(
        self,
        inputs: ModelInputs,
        query: str | Sequence[str] | None,
        call: Call,
        *,
        generating: bool,
        held: Held | None = None,
    ) -> Reduced:
        """Shrunk inputs for the stock call; the report is left in ``call``. ``held``: what the given cache holds."""
        ids = inputs["input_ids"]
        with call.stage("vision"):
            seen = self._see_all(inputs, held)
        scorer = self._chooser.scorer()
        items = self._chooser.items(seen, scorer)
        with call.stage("text"), in_full_precision(ids.device):
            questions = _media.question_ids(ids, seen, self._image_token_id)
            asked = self._chooser.asked(inputs, questions, items, query, held)
            chosen = self._chooser.read(asked, scorer)
        items = self._chooser.finished(items, chosen, scorer, call)
        if self.decoder is not None:  # chosen later
            selections = everything([item.image for item in items])
        else:
            with call.stage("select"), in_full_precision(ids.device):
                selections = self._chooser.select(items, chosen, scorer)
        with call.stage("shrink"):
            kept = [reduced_image(item.image, chose) for item, chose in zip(items, selections, strict=True)]
        with call.stage("project"):
            encoded = _media.handed_over(self._model, items, kept)
        with call.stage("shrink"):
            places = _media.all_places(seen) if seen else torch.zeros_like(ids)
            plan = self._plan(inputs, places, selections, generating)
            out = self._shrunk(inputs, seen, plan, generating)
        if encoded:
            out["mm_encoder_outputs"] = {**(inputs.get("mm_encoder_outputs") or {}), **encoded}

        def done(selections: Sequence[Selection]) -> None:
            reports = zip(items, asked, selections, strict=True)
            call.report = Report(self.method.name, tuple(_media.report_of(*parts) for parts in reports), call.seconds)

        done(selections)
        if self.decoder is not None and items:
            prompts = Prompts(out, plan.take(places, 0), [item.image for item in items], [item.row for item in items])
            call.inside = Inside(self.decoder, self.method, prompts, lambda: call.stage("select"), done)
        fed = Fed.of(plan.take(places, 0).bool(), encoded, [item.family.handed_as() for item in items])
        return Reduced(out, plan, fed, Pictures.of(seen, items, asked))

    def _refuse_positions(self) -> None:
        if self._settings.positions == "contiguous" and self.family.own_positions:
            raise UnsupportedError(
                "this model's tokens have 3-D positions (M-RoPE), which stay original: leave positions= out"
            )

    def _see_all(self, inputs: ModelInputs, held: Held | None) -> list[Seen]:
        """The images and the videos of the prompts, with those of earlier turns."""
        _media.refuse_video(self.family, self._model, inputs)
        media = _media.given_media(self.family, self._model, inputs)
        seen = [self._see(medium, inputs) for medium in media]
        if held is None:
            return seen
        earlier = [medium for medium in self._media() if held.pictures.of_medium(medium.medium)]
        seen += [
            Seen(medium, {}, [], [], medium.places(self._model, inputs)) for medium in earlier if medium not in media
        ]
        return [self._joined(each, held) for each in seen]

    def _see(self, family: Family, inputs: ModelInputs) -> Seen:
        """The images, or the videos, of a call, encoded."""
        arguments = family.encoder_arguments(self._model, inputs)
        if self._chooser.tower is not None:
            arguments |= self._chooser.tower.arguments()
        keeps_all = self.method.keeps_all
        cache, signals = (None, frozenset[str]()) if keeps_all else (self.cache, self.method.signals)
        images, cached = _media.encode(family, self._model, arguments, cache, signals)
        return Seen(family, arguments, images, cached, family.places(self._model, inputs))

    def _joined(self, seen: Seen, held: Held) -> Seen:
        """With the images of earlier turns, where they were not passed again."""
        images, cached, taken = with_earlier(held.pictures, seen)
        if taken and (self.family.own_positions or self._chooser.needs_views):
            raise InputError("this model's earlier pictures are needed again: pass every picture of the conversation")
        return replace(seen, images=images, cached=cached)

    def _plan(
        self, inputs: ModelInputs, places: Tensor, selections: Sequence[Selection], generating: bool
    ) -> ShrinkPlan:
        mask = inputs.get("attention_mask")
        if not all(selection.keeps_all for selection in selections):
            check_mask(mask)
        elif not (isinstance(mask, Tensor) and mask.ndim == 2):
            mask = None  # it goes to the model as it is, beside all of the tokens
        if self.decoder is not None and generating and mask is not None and not bool(mask[:, -1].all()):
            return pad_left(mask)
        side = padding_side(mask, self._tokenizer, generating)
        plan = plan_shrink(
            places, mask, 1, selections, side, keep_end=not generating, multiple=self._settings.pad_to_multiple_of
        )
        if not plan.identity and isinstance(inputs.get("logits_to_keep"), Tensor):
            raise UnsupportedError(
                "logits_to_keep counts columns that are cut: pass a number of last ones, not indices"
            )
        return plan

    def spread(self, reduced: Reduced, ids: Tensor) -> Callable[[Any], Any]:
        """What gives an output's logits the length of the prompt ``ids`` again."""
        is_image = torch.isin(ids, torch.tensor(self.placeholders(), device=ids.device))
        return lambda out: reduced.plan.spread_logits(out, is_image)

    @property
    def continues(self) -> bool:
        """Whether a later turn may be run on top of a cache; not where its layers were cut for another question."""
        return self.decoder is None and self.family.continues(self._model)

    def around(self, inputs: ModelInputs) -> contextlib.AbstractContextManager[Any]:
        """What has to be around a call without pictures, whose cache may come from one inside which tokens were dropped."""
        return contextlib.nullcontext() if self.decoder is None else self.decoder.of(inputs.get("past_key_values"))

    def placeholders(self) -> list[int]:
        """Ids that stand for images and videos."""
        return [medium.image_token_id(self._model) for medium in self._media()]

    def _media(self) -> list[Family]:
        return [self.family] if self.family.videos is None else [self.family, self.family.videos]

    def _shrunk(self, inputs: ModelInputs, seen: list[Seen], plan: ShrinkPlan, generating: bool) -> ModelInputs:
        """Inputs without pixels, cut by ``plan``, with positions where the family has its own."""
        done = _media.encoder_inputs(self._model, seen, pixels_only=plan.identity)
        if plan.identity:
            return {name: value for name, value in inputs.items() if name not in done}
        positions = self.family.positions(self._model, inputs)
        model, ids = self._model, inputs["input_ids"]
        owners = (model.generation_config, model.config.get_text_config(), self._tokenizer)
        shrunk = plan.apply(inputs, padding_id(owners, *self.placeholders()))
        out = {name: value for name, value in shrunk.items() if name not in done}
        if positions is not None:
            self.family.place(self._model, out, plan.take(positions, 0), generating=generating)
        elif self._settings.positions == "original":
            first = 0 if generating else self.family.first_position(model)
            out["position_ids"] = plan.take(plain_positions(ids, inputs.get("attention_mask")), 0) + first
        return out
