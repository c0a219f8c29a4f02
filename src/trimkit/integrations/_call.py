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
from trimkit.integrations._inputs import padding_id, padding_side, refuse_cache
from trimkit.methods import Method, get_method
from trimkit.models import ModelInputs, family_of
from trimkit.query import QueryReader
from trimkit.reducer import no_scorer, reduced_image, relevance_of, select_tokens
from trimkit.scorers import Scorer
from trimkit.scorers.resolve import resolve_scorer
from trimkit.shrink import ShrinkPlan, image_rows, plan_shrink
from trimkit.types import EncoderProfile, ImageReport, ImageTokens, Report, Selection, StageSeconds

__all__ = ["Call", "CallSlot", "Pipeline"]


class Call:
    """Clock and report of one call."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._prefilled = False
        self._begun: float | None = None
        self.passes = False  # whether its inputs are not ours to shorten
        self.seconds = StageSeconds()
        self.report: Report | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside to ``seconds.<name>``."""
        start = self._clock()
        yield
        setattr(self.seconds, name, getattr(self.seconds, name) + self._clock() - start)

    def begin_forward(self) -> None:
        """Start the clock of the first forward pass; later ones pass through."""
        self._begun, self._prefilled = None if self._prefilled else self._clock(), True

    def end_forward(self) -> None:
        """Stop it."""
        if self._begun is not None:
            self.seconds.prefill, self._begun = self._clock() - self._begun, None


class CallSlot(threading.local):
    """The ``generate`` call that runs in this thread, if any, and the report of the thread's last call."""

    current: Call | None = None
    report: Report | None = None

    @contextlib.contextmanager
    def use(self, call: Call) -> Iterator[None]:
        """Hold ``call`` while ``generate`` runs."""
        before, self.current = self.current, call
        try:
            yield
        finally:
            self.current = before


class Pipeline:
    """Turns model inputs with pixels into shorter ones with reduced, pre-encoded images.

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
        self._loading = threading.Lock()
        self._reader: QueryReader | None = None
        self._pixels = self.family.pixels(model)
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
        pixels = inputs.get(self._pixels)
        return pixels is not None and len(pixels) > 0

    def is_plain(self, inputs: ModelInputs) -> bool:
        """Whether there are neither pixels nor encoded images, nor a question: a decoding step, or text alone."""
        return all(inputs.get(name) is None for name in (self._pixels, "mm_encoder_outputs", "query"))

    def refuse_cache(self, inputs: ModelInputs) -> None:
        """See ``_inputs.refuse_cache``."""
        refuse_cache(inputs, self._image_token_id, self.has_images(inputs))

    def reduce(
        self, inputs: ModelInputs, query: str | Sequence[str] | None, call: Call, *, generating: bool
    ) -> tuple[ModelInputs, ShrinkPlan]:
        """Shrunk inputs for the stock call, and the plan that made them; the report is left in ``call``."""
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        arguments = self.family.encoder_arguments(self._model, inputs)
        with call.stage("vision"):
            images, cached = self._encode(arguments)
        rows = image_rows(ids, self._image_token_id, [len(image) for image in images])
        method, scorer = self.method, self._text_scorer()
        queries = self._queries(ids, rows, query, method)
        if getattr(scorer, "needs_views", False):
            images = self._with_views(arguments, images)
        with call.stage("text"):
            if scorer is not None and hasattr(scorer, "text_embeddings"):
                scorer.text_embeddings(queries, truncate=method.truncates_text)
        with call.stage("select"):
            relevance = relevance_of(images, queries, method, scorer)
            profile = scorer.profile if scorer is not None else EncoderProfile()
            selections = select_tokens(images, relevance, queries, method, profile, rows)
        with call.stage("project"):
            kept = [reduced_image(image, chosen) for image, chosen in zip(images, selections, strict=True)]
            projected = self.family.project(self._model, [image.features for image in kept])
            layers = list(zip(*(image.layers for image in kept), strict=True))
        plan = plan_shrink(
            ids,
            mask,
            self._image_token_id,
            selections,
            padding_side(mask, self._tokenizer, generating),
            keep_end=not generating,
        )
        if not plan.identity and isinstance(inputs.get("logits_to_keep"), Tensor):
            raise UnsupportedError(
                "logits_to_keep counts columns that are cut: pass a number of last ones, not indices"
            )
        out = self._shrunk(inputs, arguments, plan, generating)
        given = inputs.get("mm_encoder_outputs") or {}
        out["mm_encoder_outputs"] = {**given, "image": self.family.encoder_output(projected, layers)}
        reports = zip(rows, queries, images, selections, cached, strict=True)
        call.report = Report(method.name, tuple(_image_report(*parts) for parts in reports), call.seconds)
        return out, plan

    def _encode(self, arguments: ModelInputs) -> tuple[list[ImageTokens], list[bool]]:
        """Tokens of every image, and which came from the cache."""
        if self.method.keeps_all:
            # Encoded in one pass as the stock model does: another batch size may differ in the last bit.
            images = self.family.encode(self._model, arguments)
            return images, [False] * len(images)
        parts = self.family.split(self._model, arguments)
        keys = [content_key(part) for part in parts]
        # With gradients on, features must carry theirs: nothing is taken from the cache.
        usable = not (self._model.training or torch.is_grad_enabled())
        stamp = encoder_stamp(self.family.encoder_modules(self._model)) if usable else 0
        found = {key: self.cache.get(key, stamp) for key in keys} if usable else {}
        missing = {key: part for key, part in zip(keys, parts, strict=True) if found.get(key) is None}
        cached = [key not in missing for key in keys]
        if missing:
            all_of_them = len(missing) == len(parts)
            family, model, wanted = self.family, self._model, list(missing.values())
            encoded = family.encode(model, arguments) if all_of_them else family.encode_parts(model, wanted)
            for key, tokens in zip(missing, encoded, strict=True):
                found[key] = replace(tokens, key=key)
                if usable:
                    self.cache.put(key, stamp, replace(tokens, key=key))
        return [held for key in keys if (held := found[key]) is not None], cached

    def _with_views(self, arguments: ModelInputs, images: list[ImageTokens]) -> list[ImageTokens]:
        """The images with what the encoder saw of them, as RGB in 0 to 1."""
        statistics = getattr(self._processor, "image_processor", self._processor)
        mean, std = (getattr(statistics, name, None) for name in ("image_mean", "image_std"))
        if mean is None or std is None:
            raise ConfigError("an external scorer must know how pixels were normalised: pass the model's processor")
        parts = self.family.split(self._model, arguments)
        return [
            replace(image, views=tuple(view.as_rgb(mean, std) for view in self.family.views(self._model, part, image)))
            for part, image in zip(parts, images, strict=True)
        ]

    def _text_scorer(self) -> Scorer | None:
        """The scorer, where the method needs one; found on first use.

        Raises:
            ConfigError: none is known.
        """
        if not self.method.needs_relevance:
            return None
        with self._loading:
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
        texts = {row: self._reader.read(ids[row], self._image_token_id) for row in sorted(set(rows))}
        return [texts[row] for row in rows]

    def _shrunk(self, inputs: ModelInputs, arguments: ModelInputs, plan: ShrinkPlan, generating: bool) -> ModelInputs:
        """Inputs without pixels, cut by ``plan``, with positions where the family has its own."""
        if plan.identity:
            return {name: value for name, value in inputs.items() if name != self._pixels}
        positions = self.family.positions(self._model, inputs)
        model = self._model
        owners = (model.generation_config, model.config.get_text_config(), self._tokenizer)
        shrunk = plan.apply(inputs, padding_id(owners, self._image_token_id))
        out = {name: value for name, value in shrunk.items() if name not in arguments}
        if positions is not None:
            self.family.place(self._model, out, plan.take(positions, 0), generating=generating)
        return out


def _image_report(row: int, query: str | None, image: ImageTokens, chosen: Selection, cached: bool) -> ImageReport:
    return ImageReport(
        row=row,
        query=query,
        tokens_before=chosen.total,
        tokens_after=len(chosen),
        indices=chosen.indices,
        aggregated=chosen.aggregated,
        grid=image.grid,
        scores=chosen.scores,
        relevance=chosen.relevance,
        cached=cached,
    )
