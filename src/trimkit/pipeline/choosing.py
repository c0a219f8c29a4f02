"""Which tokens of a call's images are kept: the questions about them, where relevance comes from, and the choice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from trimkit.core.sharing import union
from trimkit.core.types import EncoderProfile, Selection
from trimkit.methods import Method, PlannedMethod
from trimkit.models import Family, ModelInputs
from trimkit.pipeline.call_settings import CallSettings, in_full_precision
from trimkit.pipeline.image_queries import AskedOf, QueryFinder, query_rounds
from trimkit.pipeline.media import (
    EarlierMedia,
    EncodedMedia,
    ImageQueries,
    MediaItem,
    in_prompt_order,
    split_frames,
    with_views,
)
from trimkit.pipeline.model_store import scorer_of
from trimkit.pipeline.question_signals import QuestionSignals
from trimkit.pipeline.report_pictures import ReportPictures
from trimkit.pipeline.selecting import no_scorer, select_everything
from trimkit.pipeline.square_padding import select_real
from trimkit.pipeline.stage_clock import StageClock
from trimkit.pipeline.text_free import select_asked
from trimkit.pipeline.tower_pruning import only_alive, tower_pruning
from trimkit.scorers import Scorer
from trimkit.scorers.resolve import placement

__all__ = ["Chooser"]


class Chooser:
    """Chooses for one model and one method.

    Args:
        model, family, processor: the model, what serves it, its processor or None.
        method: what chooses.
        source: of the scorer, as ``trimkit.reduce`` takes it; resolved on first use, since a text-free method needs none.
        settings: how calls are reduced.

    Raises:
        ConfigError, UnsupportedError: ``tower_keep`` and the like that cannot be.
    """

    def __init__(
        self,
        model: Any,
        family: Family,
        processor: Any,
        method: Method,
        source: Scorer | nn.Module | str | Path | None,
        settings: CallSettings,
    ) -> None:
        self.method = method
        self.source = source
        self._skips_padding = settings.padding == "skip"
        self.tower = tower_pruning(family, model, method, settings.tower_keep, settings.tower_layer)
        self._model = model
        self._family = family
        self._processor = processor
        self._signals = QuestionSignals(model, getattr(processor, "tokenizer", processor), method)
        self._queries = QueryFinder(processor, settings.turns, settings.query_from)
        self._scorer: Scorer | None = None
        self._placement: Any = None
        self._loading = threading.Lock()

    def clear_cache(self) -> None:
        """Forget what the scorer holds of questions."""
        owners: tuple[Any, ...] = (self._scorer, self.source)
        for owner in owners:
            if hasattr(owner, "clear_cache"):
                owner.clear_cache()

    def read(self, queries: Sequence[ImageQueries], scorer: Scorer | None) -> list[ImageQueries]:
        """Those of the questions that choose; the scorer then holds their embeddings."""
        choosing = [self._queries.chosen(each) for each in queries]
        if scorer is not None and hasattr(scorer, "text_embeddings"):
            wanted = [text for text in dict.fromkeys(text for each in choosing for text in each) if text is not None]
            whole: Any = getattr(scorer, "is_whole", None) if self.method.cuts_text else None
            for text in wanted if whole is not None else ():
                if not whole(text):
                    cast(Any, scorer).segment_embeddings(text)
            wanted = [text for text in wanted if whole is None or whole(text)]
            if wanted:
                scorer.text_embeddings(wanted, truncate=self.method.truncates_text)
        return choosing

    @property
    def needs_views(self) -> bool:
        """Whether the scorer looks at pixels of its own, whatever it was named by."""
        return bool(getattr(self.scorer(), "needs_views", False))

    def scorer(self) -> Scorer | None:
        """The scorer, where the method needs one; found on first use, and again where the model has moved.

        Raises:
            ConfigError: none is known.
        """
        if not self.method.needs_relevance:
            return None
        with self._loading:
            now = placement(self._model)
            if self._scorer is None or now != self._placement:
                self._scorer, self._placement = scorer_of(self._model, self.source), now
            if self._scorer is None:
                raise no_scorer(self.method)
            return self._scorer

    def items(self, media: list[EncodedMedia], scorer: Scorer | None) -> list[MediaItem]:
        """What is ranked, in the order of the prompts, with views where the scorer looks at pixels."""
        return in_prompt_order(self.ranked(media, scorer))

    def ranked(self, media: list[EncodedMedia], scorer: Scorer | None) -> list[EncodedMedia]:
        """What is ranked: with views where the scorer looks at pixels, frame by frame where the method shares so."""
        if getattr(scorer, "needs_views", False):
            media = [with_views(self._model, self._processor, each) for each in media]
        if self.method.share == "frame" and not self.method.keeps_all:
            media = [split_frames(each) for each in media]
        return media

    def renderer(self, media: Sequence[EncodedMedia]) -> ReportPictures:
        """What draws the report of a call with these media."""
        by_frame = self.method.share == "frame" and not self.method.keeps_all
        return ReportPictures(self._model, self._processor, media, by_frame=by_frame)

    def queries(
        self,
        inputs: ModelInputs,
        ids: Tensor,
        items: Sequence[MediaItem],
        query: str | Sequence[str] | None,
        earlier: EarlierMedia | None,
    ) -> AskedOf:
        """The questions about every image, the last one last, and a note where they are not those of its turn.

        None where nothing reads them, and for an image of a row in which the user says nothing.
        """
        if query is None and not self.method.needs_question:
            return AskedOf([(None,)] * len(items))
        before: list[ImageQueries] = [()] * len(items)
        for row in {item.row for item in items} if earlier is not None else ():
            mine = [i for i, item in enumerate(items) if item.row == row]
            for i, said in zip(mine, earlier.queries_of(row) if earlier is not None else [], strict=False):
                before[i] = said
        token, name = self._family.image_token_id(self._model), self.method.name
        training = bool(self._model.training) and torch.is_grad_enabled()
        labels = inputs.get("labels")
        return self._queries.of_images(ids, token, items, query, before, name, labels, training=training)

    def finished(
        self, items: list[MediaItem], queries: Sequence[ImageQueries], scorer: Scorer | None, clock: StageClock
    ) -> list[MediaItem]:
        """The items with their towers run to the end, where they have stopped midway."""
        if self.tower is None or scorer is None or not items:
            return items
        images = [item.image for item in items]
        with clock.stage("select"), in_full_precision(self._model.device):
            alive = self.tower.alive(images, queries, self.method, scorer)
        with clock.stage("vision"):
            images = self._family.finish(self._model, images, alive)
        return [replace(item, image=image) for item, image in zip(items, images, strict=True)]

    def select(
        self, items: Sequence[MediaItem], queries: Sequence[ImageQueries], scorer: Scorer | None
    ) -> list[Selection]:
        """What is kept of every image: for its question, or for any of them where it has several.

        A method inside the language model chooses there: here every token stays.
        """
        images, rows = [item.image for item in items], [item.row for item in items]
        if self.method.stage == "llm":
            return [only_alive(image, each) for image, each in zip(images, select_everything(images), strict=True)]
        choose = select_real if self._skips_padding and self.method.tower_plan is None else select_asked
        profile = self.method.profile or (scorer.profile if scorer is not None else EncoderProfile())
        found = []
        for asked in query_rounds(queries):
            told = self._signals.onto(images, asked, scorer)
            found.append(choose(told, asked, self.method, scorer, profile, rows))
        selections = [union(each) for each in zip(*found, strict=True)]
        if isinstance(self.method, PlannedMethod) and not self._skips_padding:  # chooses among what is alive
            return selections
        return [only_alive(image, each) for image, each in zip(images, selections, strict=True)]
