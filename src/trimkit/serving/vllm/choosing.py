"""In the engine: which tokens of one image are kept. Nothing here raises, since an exception would end the server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from trimkit.core.types import ImageReport, ImageTokens, Selection
from trimkit.pipeline.prepare import choose
from trimkit.pipeline.selecting import reduced_features
from trimkit.scorers import Scorer
from trimkit.serving.vllm.engine_counts import Counts
from trimkit.serving.vllm.settings import Reduction

__all__ = ["Chooser", "evenly_spaced", "report_of_choice"]

_log = logging.getLogger("vllm.trimkit")  # vLLM shows what stands below its own name


class Chooser:
    """Chooses for one engine.

    Args:
        scorer: gives the scorer, for methods that read the text.

    Attributes:
        counts: what was done so far.
    """

    def __init__(self, scorer: Callable[[], Scorer]) -> None:
        self._scorer = scorer
        self.counts = Counts()
        self._logged: set[str] = set()
        self._chosen: list[tuple[ImageReport, bool]] = []

    def take_chosen(self) -> list[tuple[ImageReport, bool]]:
        """Reports of the images that were chosen among since the last call, of requests that want one, and which failed."""
        found, self._chosen = self._chosen, []
        return found

    def kept(self, image: ImageTokens, reduction: Reduction, whole: Tensor | None = None) -> tuple[Tensor, Selection]:
        """What is left of an image, of exactly the length that the placeholders were set for.

        Args:
            image: its tokens as the scorer and the methods read them.
            reduction: how.
            whole: ``[N, D']`` what is cut, where it is not ``image.features``.

        Returns:
            ``[k, D']``, finite, and which tokens it comes from.
        """
        features = image.features if whole is None else whole
        wanted = reduction.tokens(len(image))
        try:
            with torch.no_grad():
                scorer = self._scorer() if reduction.method.needs_relevance else None
                selection = choose(image, reduction.query, reduction.method, scorer)
                found = reduced_features(replace(image, features=features, layers=()), selection)
            if len(found) != wanted:
                raise ValueError(f"{len(found)} tokens where {wanted} were to be")
            if not bool(torch.isfinite(found).all()):
                raise ValueError("features that are not finite")
            self._report(image, reduction, selection, failed=False)
            return found, selection
        except Exception as error:  # of whatever kind: see the module
            self.counts.fallbacks += 1
            self.note(reduction, error)
            at = evenly_spaced(len(features), wanted, features.device)
            selection = Selection(at, len(features))
            self._report(image, reduction, selection, failed=True)
            return torch.nan_to_num(features[at]), selection

    def _report(self, image: ImageTokens, reduction: Reduction, selection: Selection, *, failed: bool) -> None:
        if reduction.report is not None:
            self._chosen.append((report_of_choice(image, reduction, selection), failed))

    def note(self, reduction: Reduction, error: Exception) -> None:
        """Log what failed, once a kind."""
        what = f"{reduction.method.name}: {type(error).__name__}"
        if what not in self._logged:
            self._logged.add(what)
            _log.warning(
                "trimkit: patches at equal distances, since choosing failed (said once): %s", what, exc_info=error
            )


def report_of_choice(image: ImageTokens, reduction: Reduction, selection: Selection) -> ImageReport:
    """What was kept of one image."""
    return selection.reported(row=0, query=reduction.query, grid=image.grid)


def evenly_spaced(total: int, count: int, device: torch.device) -> Tensor:
    """``[count]`` int64 ascending, of ``total``."""
    return torch.linspace(0, total - 1, count, device=device).round().long()
