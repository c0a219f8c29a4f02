"""One reduced call: encode the images, choose, project what is kept, shorten the prompt, and time each stage."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from trimkit.cache import FeatureCache, content_key, encoder_stamp
from trimkit.errors import ConfigError, InputError, UnsupportedError
from trimkit.integrations._answers import QueryFrom
from trimkit.integrations._chat import Held, Pictures, with_earlier
from trimkit.integrations._inputs import (
    in_full_precision,
    padding_id,
    padding_side,
    plain_positions,
    refuse_cache,
)
from trimkit.integrations._questions import Asked, Questions, TurnPolicy
from trimkit.methods import Method, get_method
from trimkit.models import ModelInputs, family_of
from trimkit.reducer import no_scorer, reduced_image, relevance_of, select_tokens
from trimkit.scorers import Scorer
from trimkit.scorers.resolve import resolve_scorer
from trimkit.sharing import union
from trimkit.shrink import ShrinkPlan, image_rows, plan_shrink
from trimkit.types import EncoderProfile, ImageReport, ImageTokens, Report, Selection, StageSeconds

__all__ = ["Call", "CallSlot", "Pipeline", "Positions", "Reduced"]

Positions = Literal["auto", "contiguous", "original"]


@dataclass(frozen=True)
class Reduced:
    """What a call becomes.

    Attributes:
        inputs: for the stock method.
        plan: how the prompt was shortened.
        features: ``[k, D]`` language-model inputs at the image placeholders that are left, in their order.
        pictures: the images behind them.
    """

    inputs: ModelInputs
    plan: ShrinkPlan
    features: Tensor
    pictures: Pictures


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
    """Turns model inputs with pixels into shorter ones with reduced, pre-encoded images.

    Args:
        model: the model.
        processor: its processor or None.
        method, options: as ``trimkit.reduce`` takes them.
        scorer: likewise; resolved on first use, since a text-free method needs none.
        cache_images: capacity of the feature cache.
        turns, positions, query_from: as ``trimkit.reduce`` takes them.

    Raises:
        ConfigError, UnsupportedError: what cannot be.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        method: str | Method,
        scorer: Scorer | nn.Module | str | Path | None,
        cache_images: int,
        turns: TurnPolicy,
        positions: Positions,
        options: dict[str, Any],
        query_from: QueryFrom = "question",
    ) -> None:
        if cache_images < 0:
            raise ConfigError(f"cache_images={cache_images} is negative: give the number of images to hold, 0 for none")
        self.family = family_of(model)
        self._positions = self._known(positions)
        self.method = get_method(method, **options)
        self.cache = FeatureCache(cache_images)
        self._model = model
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._questions = Questions(processor, turns, query_from)
        self._scorer_source = scorer
        self._scorer: Scorer | None = None
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

    def refuse_cache(self, inputs: ModelInputs) -> None:
        """See ``_inputs.refuse_cache``."""
        refuse_cache(inputs, self._image_token_id, self.has_images(inputs))

    @property
    def image_token_id(self) -> int:
        """The placeholder."""
        return self._image_token_id

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
        arguments = self.family.encoder_arguments(self._model, inputs)
        with call.stage("vision"):
            images, cached = self._images(arguments, ids, held)
        totals = [len(image) for image in images]
        rows = image_rows(ids, self._image_token_id, totals)
        asked = self._asked(inputs, rows, totals, query, held)
        scorer = self._text_scorer()
        if getattr(scorer, "needs_views", False):
            images = self._with_views(arguments, images)
        with call.stage("text"), in_full_precision(ids.device):
            if scorer is not None and hasattr(scorer, "text_embeddings"):
                wanted = dict.fromkeys(text for each in asked for text in self._questions.chosen(each))
                scorer.text_embeddings(
                    [text for text in wanted if text is not None], truncate=self.method.truncates_text
                )
        with call.stage("select"), in_full_precision(ids.device):
            selections = self._select(images, [self._questions.chosen(each) for each in asked], scorer, rows)
        with call.stage("project"):
            kept = [reduced_image(image, chosen) for image, chosen in zip(images, selections, strict=True)]
            projected = self.family.project(self._model, [image.features for image in kept]) if kept else []
            layers = list(zip(*(image.layers for image in kept), strict=True))
        plan = self._plan(inputs, selections, generating)
        out = self._shrunk(inputs, arguments, plan, generating)
        given = inputs.get("mm_encoder_outputs") or {}
        if images:
            out["mm_encoder_outputs"] = {**given, "image": self.family.encoder_output(projected, layers)}
        reports = zip(rows, asked, images, selections, cached, strict=True)
        call.report = Report(self.method.name, tuple(_image_report(*parts) for parts in reports), call.seconds)
        features = torch.cat(projected) if projected else torch.empty(0, 0, device=ids.device)
        remembered = Pictures(tuple(replace(image, views=()) for image in images), tuple(rows), tuple(asked))
        return Reduced(out, plan, features, remembered)

    def _known(self, positions: Positions) -> Positions:
        if positions not in get_args(Positions):
            raise ConfigError(f"positions={positions!r} is not known: choose one of {', '.join(get_args(Positions))}")
        if positions == "contiguous" and self.family.own_positions:
            raise UnsupportedError(
                "this model's tokens have 3-D positions (M-RoPE), which stay original: leave positions= out"
            )
        return positions

    def _images(self, arguments: ModelInputs, ids: Tensor, held: Held | None) -> tuple[list[ImageTokens], list[bool]]:
        """Tokens of every image of the prompts, and which cost no encoding now."""
        given = self._pixels in arguments and len(arguments[self._pixels]) > 0
        images, cached = self._encode(arguments) if given else ([], [])
        if held is None or not held.pictures.images:
            return images, cached
        counts = (ids == self._image_token_id).sum(dim=1).tolist()
        merged, taken = with_earlier(held.pictures, images, counts)
        if not taken:
            return images, cached
        if self.family.own_positions or getattr(self._scorer_source, "needs_views", False):
            raise InputError("this model's earlier pictures are needed again: pass every picture of the conversation")
        fresh = {id(image) for image, old in zip(images, cached, strict=True) if not old}
        return merged, [id(image) not in fresh for image in merged]

    def _select(
        self, images: Sequence[ImageTokens], asked: Sequence[Asked], scorer: Scorer | None, rows: Sequence[int]
    ) -> list[Selection]:
        """What is kept of every image: for its question, or for any of them where it has several."""
        profile = scorer.profile if scorer is not None else EncoderProfile()
        rounds = []
        for turn in range(max(map(len, asked), default=1)):
            queries = [each[min(turn, len(each) - 1)] for each in asked]
            relevance = relevance_of(images, queries, self.method, scorer)
            rounds.append(select_tokens(images, relevance, queries, self.method, profile, rows))
        return [union(each) for each in zip(*rounds, strict=True)]

    def _plan(self, inputs: ModelInputs, selections: Sequence[Selection], generating: bool) -> ShrinkPlan:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        side = padding_side(mask, self._tokenizer, generating)
        plan = plan_shrink(ids, mask, self._image_token_id, selections, side, keep_end=not generating)
        if not plan.identity and isinstance(inputs.get("logits_to_keep"), Tensor):
            raise UnsupportedError(
                "logits_to_keep counts columns that are cut: pass a number of last ones, not indices"
            )
        return plan

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
        if self._scorer is None:
            default, tower = self.family.default_clip(self._model), self.family.tower(self._model)
            self._scorer = resolve_scorer(self._scorer_source, self._model, default, tower)
        if self._scorer is None:
            raise no_scorer(self.method)
        return self._scorer

    def _asked(
        self,
        inputs: ModelInputs,
        rows: Sequence[int],
        totals: Sequence[int],
        query: str | Sequence[str] | None,
        held: Held | None,
    ) -> list[Asked]:
        """The questions about every image, the last one last; None where nothing reads them."""
        if query is None and not self.method.needs_relevance:
            return [(None,)] * len(rows)
        earlier: list[Asked] = [()] * len(rows)
        if held is not None:
            for row in set(rows):
                mine = [i for i, at in enumerate(rows) if at == row]
                for i, before in zip(mine, held.pictures.of_row(row), strict=False):
                    earlier[i] = held.pictures.asked[before]
        ids, token, name = inputs["input_ids"], self._image_token_id, self.method.name
        return self._questions.of_images(ids, token, rows, totals, query, earlier, name, inputs.get("labels"))

    def _shrunk(self, inputs: ModelInputs, arguments: ModelInputs, plan: ShrinkPlan, generating: bool) -> ModelInputs:
        """Inputs without pixels, cut by ``plan``, with positions where the family has its own."""
        if plan.identity:
            return {name: value for name, value in inputs.items() if name != self._pixels}
        positions = self.family.positions(self._model, inputs)
        model, ids = self._model, inputs["input_ids"]
        owners = (model.generation_config, model.config.get_text_config(), self._tokenizer)
        shrunk = plan.apply(inputs, padding_id(owners, self._image_token_id))
        out = {name: value for name, value in shrunk.items() if name not in arguments}
        if positions is not None:
            self.family.place(self._model, out, plan.take(positions, 0), generating=generating)
        elif self._positions == "original":
            first = 0 if generating else self.family.first_position(model)
            out["position_ids"] = plan.take(plain_positions(ids, inputs.get("attention_mask")), 0) + first
        return out


def _image_report(row: int, asked: Asked, image: ImageTokens, chosen: Selection, cached: bool) -> ImageReport:
    return ImageReport(
        row=row,
        query=asked[-1],
        tokens_before=chosen.total,
        tokens_after=len(chosen),
        indices=chosen.indices,
        aggregated=chosen.aggregated,
        grid=image.grid,
        scores=chosen.scores,
        relevance=chosen.relevance,
        cached=cached,
    )
