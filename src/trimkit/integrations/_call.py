"""One reduced call: encode the images, choose, project what is kept, shorten the prompt, and time each stage."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.cache import FeatureCache, content_key, encoder_stamp
from trimkit.errors import ConfigError, InputError, UnsupportedError
from trimkit.integrations import _media
from trimkit.integrations._inputs import padding_id, padding_side, refuse_cache
from trimkit.integrations._media import Item, Seen
from trimkit.methods import Method, get_method
from trimkit.models import Family, ModelInputs, family_of
from trimkit.query import QueryReader
from trimkit.reducer import no_scorer, reduced_image, relevance_of, select_tokens
from trimkit.scorers import Scorer
from trimkit.scorers.resolve import resolve_scorer
from trimkit.shrink import ShrinkPlan, plan_shrink
from trimkit.types import EncoderProfile, ImageReport, ImageTokens, Report, Selection, StageSeconds

__all__ = ["Call", "CallSlot", "Pipeline"]


class Call:
    """Clock and report of one call."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._prefilled = False
        self.seconds = StageSeconds()
        self.report: Report | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside to ``seconds.<name>``."""
        start = self._clock()
        yield
        setattr(self.seconds, name, getattr(self.seconds, name) + self._clock() - start)

    @contextlib.contextmanager
    def prefill(self) -> Iterator[None]:
        """Time the first forward pass; later ones pass through."""
        if self._prefilled:
            yield
            return
        self._prefilled = True
        with self.stage("prefill"):
            yield


class CallSlot(threading.local):
    """The ``generate`` call that runs in this thread, if any."""

    current: Call | None = None

    @contextlib.contextmanager
    def use(self, call: Call) -> Iterator[None]:
        """Hold ``call`` while ``generate`` runs."""
        before, self.current = self.current, call
        try:
            yield
        finally:
            self.current = before


class Pipeline:
    """Turns model inputs with pixels into shorter ones with reduced, pre-encoded images and videos.

    Args:
        model: the model.
        processor: its processor or None.
        method, options: as ``trimkit.reduce`` takes them.
        scorer: likewise; resolved on first use, since a text-free method needs none.
        cache_images: capacity of the feature cache.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        method: str | Method,
        scorer: Scorer | nn.Module | str | Path | None,
        cache_images: int,
        options: dict[str, Any],
    ) -> None:
        if cache_images < 0:
            raise ConfigError(f"cache_images={cache_images} is negative: give the number of images to hold, 0 for none")
        self.family = family_of(model)
        self.method = get_method(method, **options)
        self.cache = FeatureCache(cache_images)
        self._model = model
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._scorer_source = scorer
        self._scorer: Scorer | None = None
        self._reader: QueryReader | None = None
        self._image_token_id = self.family.image_token_id(model)

    def clear_caches(self) -> None:
        """Forget image features, and what a scorer holds of questions."""
        self.cache.clear()
        owners: tuple[Any, ...] = (self._scorer, self._scorer_source)
        for owner in owners:
            if hasattr(owner, "clear_cache"):
                owner.clear_cache()

    def clock(self) -> float:
        """Seconds; waits for a GPU first, so that a stage's time is its own."""
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)
        return time.perf_counter()

    def has_images(self, inputs: ModelInputs) -> bool:
        """Whether there are pixels to encode."""
        return bool(_media.given_media(self.family, self._model, inputs))

    def refuse_cache(self, inputs: ModelInputs) -> None:
        """See ``_inputs.refuse_cache`` and, for a video where none is covered, ``_media.refuse_video``."""
        _media.refuse_video(self.family, self._model, inputs)
        for token in self._placeholders():
            refuse_cache(inputs, token, self.has_images(inputs))

    def reduce(
        self, inputs: ModelInputs, query: str | Sequence[str] | None, call: Call, *, generating: bool
    ) -> tuple[ModelInputs, ShrinkPlan]:
        """Shrunk inputs for the stock call, and the plan that made them; the report is left in ``call``."""
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        method = self.method
        with call.stage("vision"):
            seen = [self._see(medium, inputs) for medium in _media.given_media(self.family, self._model, inputs)]
        scorer = self._text_scorer()
        items = self._items(seen, scorer)
        images, rows = [item.image for item in items], [item.row for item in items]
        queries = self._queries(_media.question_ids(ids, seen, self._image_token_id), rows, query, method)
        with call.stage("text"):
            if scorer is not None and hasattr(scorer, "text_embeddings"):
                scorer.text_embeddings(queries, truncate=method.truncates_text)
        with call.stage("select"):
            relevance = relevance_of(images, queries, method, scorer)
            profile = scorer.profile if scorer is not None else EncoderProfile()
            selections = select_tokens(images, relevance, queries, method, profile, rows)
        with call.stage("project"):
            kept = [reduced_image(image, chosen) for image, chosen in zip(images, selections, strict=True)]
            encoded = _media.handed_over(self._model, items, kept)
        plan = plan_shrink(
            _media.all_places(seen),
            mask,
            1,
            selections,
            padding_side(mask, self._tokenizer, generating),
            keep_end=not generating,
        )
        if not plan.identity and isinstance(inputs.get("logits_to_keep"), Tensor):
            raise UnsupportedError(
                "logits_to_keep counts columns that are cut: pass a number of last ones, not indices"
            )
        out = self._shrunk(inputs, seen, plan, generating)
        out["mm_encoder_outputs"] = {**(inputs.get("mm_encoder_outputs") or {}), **encoded}
        reports = zip(items, queries, selections, strict=True)
        call.report = Report(method.name, tuple(_image_report(*parts) for parts in reports), call.seconds)
        return out, plan

    def _see(self, family: Family, inputs: ModelInputs) -> Seen:
        """The images, or the videos, of a call, encoded."""
        arguments = family.encoder_arguments(self._model, inputs)
        images, cached = self._encode(family, arguments)
        return Seen(family, arguments, images, cached, family.places(self._model, inputs))

    def _items(self, seen: list[Seen], scorer: Scorer | None) -> list[Item]:
        """What is ranked, in the order of the prompts, with views where the scorer looks at pixels."""
        if getattr(scorer, "needs_views", False):
            seen = [_media.with_views(self._model, self._processor, each) for each in seen]
        if self.method.share == "frame" and not self.method.keeps_all:
            seen = [_media.frames_of(each) for each in seen]
        return _media.in_order(seen)

    def _placeholders(self) -> list[int]:
        """Ids that stand for images and videos."""
        media = [self.family] if self.family.videos is None else [self.family, self.family.videos]
        return [medium.image_token_id(self._model) for medium in media]

    def _encode(self, family: Family, arguments: ModelInputs) -> tuple[list[ImageTokens], list[bool]]:
        """Tokens of every image or video, and which came from the cache."""
        if self.method.keeps_all:
            # Encoded in one pass as the stock model does: another batch size may differ in the last bit.
            images = family.encode(self._model, arguments)
            return images, [False] * len(images)
        parts = family.split(self._model, arguments)
        keys = [content_key(part) for part in parts]
        # With gradients on, features must carry theirs: nothing is taken from the cache.
        usable = not (self._model.training or torch.is_grad_enabled())
        stamp = encoder_stamp(family.encoder_modules(self._model)) if usable else 0
        found = {key: self.cache.get(key, stamp) for key in keys} if usable else {}
        missing = {key: part for key, part in zip(keys, parts, strict=True) if found.get(key) is None}
        cached = [key not in missing for key in keys]
        if missing:
            all_of_them = len(missing) == len(parts)
            model, wanted = self._model, list(missing.values())
            encoded = family.encode(model, arguments) if all_of_them else family.encode_parts(model, wanted)
            for key, tokens in zip(missing, encoded, strict=True):
                found[key] = replace(tokens, key=key)
                if usable:
                    self.cache.put(key, stamp, replace(tokens, key=key))
        return [held for key in keys if (held := found[key]) is not None], cached

    def _text_scorer(self) -> Scorer | None:
        """The scorer, where the method needs one; found on first use.

        Raises:
            ConfigError: none is known.
        """
        if not self.method.needs_relevance:
            return None
        if self._scorer is None:
            default, tower = self.family.default_clip(self._model), self.family.tower(self._model)
            self._scorer = resolve_scorer(self._scorer_source, self._model, default, tower)
        if self._scorer is None:
            raise no_scorer(self.method)
        return self._scorer

    def _queries(
        self, ids: Tensor, rows: Sequence[int], query: str | Sequence[str] | None, method: Method
    ) -> list[Any]:
        """The question of every image; None for each where nothing reads it."""
        if isinstance(query, str):
            return [query] * len(rows)
        if query is not None:
            if not all(isinstance(each, str) for each in query):
                raise InputError("query holds something that is not text: give one question a row, or one for all")
            if len(query) != len(ids):
                raise InputError(f"query has {len(query)} entries for {len(ids)} rows: give one a row, or one string")
            return [query[row] for row in rows]
        if not method.needs_relevance:
            return [None] * len(rows)
        if self._reader is None:
            if self._processor is None:
                raise ConfigError(
                    f"method {method.name!r} reads the question: pass the model's processor, or query='...'"
                )
            self._reader = QueryReader(self._processor)
        read = self._reader.read
        texts = {row: _media.without_frame_marks(read(ids[row], self._image_token_id)) for row in sorted(set(rows))}
        return [texts[row] for row in rows]

    def _shrunk(self, inputs: ModelInputs, seen: list[Seen], plan: ShrinkPlan, generating: bool) -> ModelInputs:
        """Inputs without pixels, cut by ``plan``, with positions where the family has its own."""
        done = _media.encoder_inputs(self._model, seen, pixels_only=plan.identity)
        if plan.identity:
            return {name: value for name, value in inputs.items() if name not in done}
        positions = self.family.positions(self._model, inputs)
        model = self._model
        owners = (model.generation_config, model.config.get_text_config(), self._tokenizer)
        shrunk = plan.apply(inputs, padding_id(owners, *self._placeholders()))
        out = {name: value for name, value in shrunk.items() if name not in done}
        if positions is not None:
            self.family.place(self._model, out, plan.take(positions, 0), generating=generating)
        return out


def _image_report(item: Item, query: str | None, chosen: Selection) -> ImageReport:
    return ImageReport(
        row=item.row,
        query=query,
        tokens_before=chosen.total,
        tokens_after=len(chosen),
        indices=chosen.indices,
        aggregated=chosen.aggregated,
        grid=item.image.grid,
        scores=chosen.scores,
        relevance=chosen.relevance,
        cached=item.cached,
        medium=item.family.medium,
        frames=item.image.frames,
    )
