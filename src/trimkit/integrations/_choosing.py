"""Which tokens of a call's images are kept: the questions about them, where relevance comes from, and the choice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trimkit.integrations import _media
from trimkit.integrations._chat import Held
from trimkit.integrations._inputs import CallSettings, in_full_precision
from trimkit.integrations._media import Item, Seen
from trimkit.integrations._questions import Asked, Questions, rounds
from trimkit.integrations._stages import Call
from trimkit.integrations._tower import only_alive, tower_pruning
from trimkit.methods import Method
from trimkit.models import Family, ModelInputs
from trimkit.reducer import no_scorer, relevance_of, select_tokens
from trimkit.scorers import Scorer
from trimkit.scorers.resolve import resolve_scorer
from trimkit.sharing import union
from trimkit.types import EncoderProfile, Selection

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
        self.tower = tower_pruning(family, model, method, settings.tower_keep, settings.tower_layer)
        self._model = model
        self._family = family
        self._processor = processor
        self._questions = Questions(processor, settings.turns, settings.query_from)
        self._scorer: Scorer | None = None
        self._loading = threading.Lock()

    def clear_cache(self) -> None:
        """Forget what the scorer holds of questions."""
        owners: tuple[Any, ...] = (self._scorer, self.source)
        for owner in owners:
            if hasattr(owner, "clear_cache"):
                owner.clear_cache()

    def read(self, asked: Sequence[Asked], scorer: Scorer | None) -> list[Asked]:
        """Those of the questions that choose; the scorer then holds their embeddings."""
        chosen = [self._questions.chosen(each) for each in asked]
        if scorer is not None and hasattr(scorer, "text_embeddings"):
            wanted = [text for text in dict.fromkeys(text for each in chosen for text in each) if text is not None]
            scorer.text_embeddings(wanted, truncate=self.method.truncates_text)
        return chosen

    @property
    def needs_views(self) -> bool:
        """Whether the scorer looks at pixels of its own, whatever it was named by."""
        return bool(getattr(self.scorer(), "needs_views", False))

    def scorer(self) -> Scorer | None:
        """The scorer, where the method needs one; found on first use.

        Raises:
            ConfigError: none is known.
        """
        if not self.method.needs_relevance:
            return None
        with self._loading:
            if self._scorer is None:
                default, tower = self._family.default_clip(self._model), self._family.tower(self._model)
                self._scorer = resolve_scorer(self.source, self._model, default, tower)
        if self._scorer is None:
            raise no_scorer(self.method)
        return self._scorer

    def items(self, seen: list[Seen], scorer: Scorer | None) -> list[Item]:
        """What is ranked, in the order of the prompts, with views where the scorer looks at pixels."""
        if getattr(scorer, "needs_views", False):
            seen = [_media.with_views(self._model, self._processor, each) for each in seen]
        if self.method.share == "frame" and not self.method.keeps_all:
            seen = [_media.frames_of(each) for each in seen]
        return _media.in_order(seen)

    def asked(
        self,
        inputs: ModelInputs,
        ids: Tensor,
        items: Sequence[Item],
        query: str | Sequence[str] | None,
        held: Held | None,
    ) -> list[Asked]:
        """The questions about every image, the last one last; None where nothing reads them."""
        if query is None and not self.method.needs_relevance:
            return [(None,)] * len(items)
        earlier: list[Asked] = [()] * len(items)
        for row in {item.row for item in items} if held is not None else ():
            mine = [i for i, item in enumerate(items) if item.row == row]
            for i, before in zip(mine, held.pictures.asked_of(row) if held is not None else [], strict=False):
                earlier[i] = before
        token, name = self._family.image_token_id(self._model), self.method.name
        return self._questions.of_images(ids, token, items, query, earlier, name, inputs.get("labels"))

    def finished(self, items: list[Item], asked: Sequence[Asked], scorer: Scorer | None, call: Call) -> list[Item]:
        """The items with their towers run to the end, where they have stopped midway."""
        if self.tower is None or scorer is None or not items:
            return items
        images = [item.image for item in items]
        with call.stage("select"), in_full_precision(self._model.device):
            alive = self.tower.alive(images, asked, self.method, scorer)
        with call.stage("vision"):
            images = self._family.finish(self._model, images, alive)
        return [replace(item, image=image) for item, image in zip(items, images, strict=True)]

    def select(self, items: Sequence[Item], asked: Sequence[Asked], scorer: Scorer | None) -> list[Selection]:
        """What is kept of every image: for its question, or for any of them where it has several."""
        profile = self.method.profile or (scorer.profile if scorer is not None else EncoderProfile())
        images, rows = [item.image for item in items], [item.row for item in items]
        found = []
        for queries in rounds(asked):
            relevance = relevance_of(images, queries, self.method, scorer)
            found.append(select_tokens(images, relevance, queries, self.method, profile, rows))
        return [only_alive(image, union(each)) for image, each in zip(images, zip(*found, strict=True), strict=True)]
