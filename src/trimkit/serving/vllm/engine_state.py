"""What one engine process holds beside the model: settings, the scorer, features by picture. No module of the model's own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from trimkit.core.types import ImageTokens, Selection
from trimkit.errors import TrimkitError
from trimkit.scorers import Scorer
from trimkit.serving.report_json import image_object
from trimkit.serving.vllm.choosing import Chooser, report_of_choice
from trimkit.serving.vllm.engine_counts import leave, sweep
from trimkit.serving.vllm.engine_reports import leave_report
from trimkit.serving.vllm.facts import knows_scorer, scorer_for, twin_of
from trimkit.serving.vllm.held_features import HeldFeatures
from trimkit.serving.vllm.settings import Reduction, ServerSettings, unpack
from trimkit.serving.vllm.tower_signals import LayerNumbers

__all__ = ["EngineState"]

_log = logging.getLogger("vllm.trimkit")
_READ = 1024  # reductions that need not be read again
_MEGABYTE = 2**20


class EngineState:
    """Of one model.

    Args:
        model_config: vLLM's.

    Attributes:
        family, twin: what trimkit knows of the model, see ``facts``.
        layers: of its tower, where it gives signals.
        chooser: chooses.
        held: features of the tower by picture.
        started: whether the model's weights are there; ``device``: where they are.
        counting: whether this process's counts are shown: of a tensor-parallel model's, the first one's.

    Raises:
        ConfigError, UnsupportedError: the checkpoint cannot be served as it is asked for.
    """

    def __init__(self, model_config: Any) -> None:
        self._config = model_config
        self._checkpoint = str(model_config.model)
        config = model_config.hf_config
        self.layers = LayerNumbers.of(config)
        self._settings = ServerSettings.read(self._checkpoint, getattr(config, "trimkit", None), self.layers)
        self.family, self.twin = twin_of(config)
        self.knows_scorer = knows_scorer(config, self._checkpoint, self._settings)
        self.chooser = Chooser(self.scorer)
        self.held = HeldFeatures(self._settings.tower_cache_mb * _MEGABYTE)
        self.device = torch.device("cpu")
        self.started = self.counting = False
        self._scorer: Scorer | None = None
        self._reductions: dict[bytes, Reduction] = {}

    def start(self, device: torch.device) -> None:
        """The model is on ``device``: load the scorer, where there is one.

        Raises:
            ModelError, ConfigError: it cannot be loaded, and the server's own method needs it.
        """
        from vllm.distributed import get_tensor_model_parallel_rank

        self.started, self.device, self.counting = True, device, get_tensor_model_parallel_rank() == 0
        sweep()
        if self.knows_scorer:
            self.load_scorer(needed=self._settings.request(None).method.needs_relevance)

    def load_scorer(self, *, needed: bool) -> None:
        """Load it now; where it cannot be and is not ``needed``, say so and go on.

        Raises:
            ModelError, ConfigError: it cannot be loaded and is needed.
        """
        try:
            self.scorer()
        except TrimkitError as error:
            if needed:
                raise
            _log.warning("trimkit: methods that read the text get patches at equal distances: %s", error)

    def scorer(self) -> Scorer:
        """Loaded on first use.

        Raises:
            ModelError, ConfigError: there is none, or it cannot be loaded.
        """
        if self._scorer is None:
            before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)  # vLLM loads within its own device and dtype
            try:
                with torch.device("cpu"):
                    self._scorer = scorer_for(
                        self.family,
                        self.twin,
                        self._checkpoint,
                        self._settings,
                        device=self.device,
                        dtype=self._config.dtype,
                    )
            finally:
                torch.set_default_dtype(before)
        return self._scorer

    def note(self, before: int, after: int, seconds: Sequence[float]) -> None:
        """Count image tokens and the time of every choice, and leave the counts for the API server's metrics."""
        counts = self.chooser.counts
        counts.image_tokens_before += before
        counts.image_tokens_after += after
        for each in seconds:
            counts.choosing_seconds.add(each)
        if self.counting:
            leave(counts)

    def report(self, reduction: Reduction, whole: Sequence[ImageTokens] = (), *, cached: bool = False) -> None:
        """Leave what was kept of a picture for the API server.

        Args:
            reduction: of the picture.
            whole: its images, where all of their tokens are kept.
            cached: whether its features were held.
        """
        chosen = self.chooser.take_chosen()
        for image in whole:
            every = torch.arange(len(image))
            chosen.append((report_of_choice(image, reduction, Selection(every, len(image))), False))
        if not self.counting or reduction.report is None:
            return
        images = [image_object(replace(image, cached=cached)) for image, _ in chosen]
        content = {"method": reduction.method.name, "fallback": any(failed for _, failed in chosen), "images": images}
        try:
            leave_report(reduction.report, content)
        except OSError as error:
            _log.warning("trimkit: a report is not given: %s", error)

    def reduction(self, packed: bytes) -> Reduction:
        """What ``settings.pack`` made the text of."""
        found = self._reductions.get(packed)
        if found is None:
            found = self._reductions[packed] = unpack(packed.decode())
            if len(self._reductions) > _READ:
                self._reductions.pop(next(iter(self._reductions)))
        return found

    def pixel_statistics(self) -> tuple[Any, Any]:
        """Mean and standard deviation by which the processor has normalized pixels."""
        from vllm.transformers_utils.processor import cached_processor_from_config

        processor = cached_processor_from_config(self._config)
        images = getattr(processor, "image_processor", processor)
        return images.image_mean, images.image_std
