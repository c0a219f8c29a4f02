"""In the engine: pictures through the tower, a few at a time, then a choice for each, and the projector on what is kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimkit.core.content import content_key
from trimkit.core.types import ImageTokens
from trimkit.errors import ConfigError
from trimkit.models import AT_ONCE, ModelInputs
from trimkit.serving.vllm.engine_state import EngineState
from trimkit.serving.vllm.settings import FIELD, Reduction

__all__ = ["ReducingModel"]


class ReducingModel:
    """To be put before a stock vision-language model among the bases of a class.

    As it is, it serves a family whose features are ranked behind the projector, one entry of every argument a picture. Others
    override what differs:

    - ``split_pictures``, ``join_pictures``: the encoder's arguments of each picture, and of several again.
    - ``rows``: how many tower passes (tiles) a picture takes, so that a step stays within ``AT_ONCE``.
    - ``encode``: features that are ranked and held; ``project``: what is left of them to the language model's width.
    - ``ranked``: the images of a picture that are ranked one by one, as scorers and methods read them.
    - ``encoder_arguments``: what transformers' image encoder would be given of one of them.
    - ``cut``: what is left of one of them.
    - ``renamed``: weights whose names vLLM does not know.
    """

    config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        if getattr(vllm_config.lora_config, "enable_tower_connector_lora", False):
            raise ConfigError(
                "adapters of the vision tower (--enable-tower-connector-lora) are not served: leave that out"
            )
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._reducing = EngineState(vllm_config.model_config)

    def load_weights(self, weights: Any) -> Any:
        """Stock, then the scorer: a checkpoint that cannot be served as it is asked for is refused at start-up."""
        loaded = super().load_weights(self.renamed(weights))  # type: ignore[misc]
        self._start()
        return loaded

    def _start(self) -> None:
        module: Any = self
        self._reducing.start(next(module.parameters()).device)

    def renamed(self, weights: Any) -> Any:
        """Pairs of name and tensor, as the stock class expects them."""
        return weights

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Embeddings ``[k, H]`` of every picture; videos, and pictures given as embeddings, as the stock class does."""
        packed = kwargs.pop(FIELD, None)
        if packed is None:
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        if not self._reducing.started:  # weights that were not loaded, but made up
            self._start()
        reductions = [self._reducing.reduction(bytes(row.tolist())) for row in packed]
        pictures = self.split_pictures(kwargs)
        features = self._features(pictures, reductions)
        kept, seconds = [], []
        for each in zip(pictures, features, reductions, strict=True):
            began = time.perf_counter()
            kept.append(self._kept(*each))
            seconds.append(time.perf_counter() - began)
        self._reducing.note(sum(map(len, features)), sum(map(len, kept)), seconds)
        return self.project(kept)

    def split_pictures(self, arguments: ModelInputs) -> list[ModelInputs]:
        """The encoder's arguments of every picture, each with a first dimension of 1."""
        count = len(arguments["pixel_values"])
        return [{name: _one(value, i) for name, value in arguments.items()} for i in range(count)]

    def join_pictures(self, pictures: Sequence[ModelInputs]) -> ModelInputs:
        """The inverse, as vLLM batches it: a list where shapes differ."""
        return {name: _together([picture[name] for picture in pictures]) for name in pictures[0]}

    def rows(self, picture: ModelInputs) -> int:
        """Passes through the tower."""
        pixels = picture["pixel_values"]
        return int(pixels.shape[1]) if pixels.ndim == 5 else 1

    def encode(self, pictures: Sequence[ModelInputs]) -> list[Tensor]:
        """``[N, D]`` of every picture."""
        return list(super().embed_multimodal(**self.join_pictures(pictures)))  # type: ignore[misc]

    def encode_with_signals(
        self, pictures: Sequence[ModelInputs], names: frozenset[str]
    ) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """What ``encode`` gives, and the signals ``names`` of the tower; a family whose tower gives none is asked for none."""
        return [(features, {}) for features in self.encode(pictures)]

    def project(self, kept: list[Tensor]) -> list[Tensor]:
        """``[k, H]`` of what is left of every picture; here it has that width already."""
        return kept

    def projected(self, features: Tensor) -> Tensor:
        """``[N, H]`` of what ``ranked`` gives, behind the projector, for methods that compare tokens there; here it is."""
        return features

    def ranked(self, picture: ModelInputs, features: Tensor) -> list[ImageTokens]:
        """The images of one picture that are ranked one by one, in order; together they have all of its tokens."""
        return [ImageTokens(features)]

    def encoder_arguments(self, picture: ModelInputs, number: int) -> ModelInputs:
        """Those of transformers' image encoder for image ``number`` of the picture."""
        return dict(picture)

    def cut(self, picture: ModelInputs, image: ImageTokens, whole: Tensor, reduction: Reduction) -> Tensor:
        """``[k, D]`` of one image that is ranked, from ``whole`` ``[N, D]``."""
        return self._reducing.chooser.kept(image, reduction, whole)[0]

    def _kept(self, picture: ModelInputs, features: Tensor, reduction: Reduction) -> Tensor:
        if reduction.method.keeps_all:
            if reduction.report is not None:
                self._reducing.report(reduction, self.ranked(picture, features), cached=picture[_HELD])
            return features
        parts, at = [], 0
        for number, image in enumerate(self.ranked(picture, features)):
            whole = features[at : at + len(image)]
            at += len(image)
            image = self._with_signals(image, picture[_SIGNALS], reduction)
            parts.append(self.cut(picture, self._seen(picture, image, number, reduction), whole, reduction))
        if reduction.report is not None:
            self._reducing.report(reduction, cached=picture[_HELD])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _with_signals(self, image: ImageTokens, given: dict[str, Tensor], reduction: Reduction) -> ImageTokens:
        """The image with what its method asks for: signals of the tower, tokens behind the projector."""
        asked = reduction.method.asked_signals
        signals = {name: given[name].to(image.features.device) for name in asked - {"projected"} if name in given}
        if "projected" in asked:
            signals["projected"] = self.projected(image.features)
        row, keys = signals.pop("cls_attention", None), signals.pop("keys", None)
        return replace(image, cls_attention=row, keys=keys, signals=signals)

    def _seen(self, picture: ModelInputs, image: ImageTokens, number: int, reduction: Reduction) -> ImageTokens:
        """The image with the pixels under its tokens, for a scorer that looks at pixels."""
        state = self._reducing
        image = replace(image, key=picture[_KEY])
        try:
            scorer = state.scorer() if reduction.method.needs_relevance else None
            if not getattr(scorer, "needs_views", False):
                return image
            views = state.family.views(state.twin, self.encoder_arguments(picture, number), image)
            mean, std = state.pixel_statistics()
            return replace(image, views=tuple(view.as_rgb(mean, std) for view in views))
        except Exception as error:  # nothing in the engine may raise
            state.chooser.note(reduction, error)
            return image

    def _features(self, pictures: Sequence[ModelInputs], reductions: Sequence[Reduction]) -> list[Tensor]:
        """Of every picture; the tower runs for those not held, a bounded number of tiles at a time."""
        keys = [content_key(picture) for picture in pictures]
        asked: dict[str, frozenset[str]] = {}
        for key, reduction in zip(keys, reductions, strict=True):
            asked[key] = asked.get(key, frozenset()) | (reduction.method.asked_signals - {"projected"})
        found = {key: held for key, names in asked.items() if (held := self._held(key, names)) is not None}
        missing = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in found}
        counts = self._reducing.chooser.counts
        counts.pictures += len(pictures)
        counts.feature_cache_hits += len(pictures) - len(missing)
        for group in self._groups(missing):
            names = frozenset[str]().union(*(asked[key] for key in group))
            encoded = self.encode_with_signals([missing[key] for key in group], names)
            for key, (features, signals) in zip(group, encoded, strict=True):
                found[key] = features, signals
                self._hold(key, features, signals)
        for key, picture in zip(keys, pictures, strict=True):
            picture[_KEY], picture[_HELD], picture[_SIGNALS] = key, key not in missing, found[key][1]
        return [found[key][0].to(self._reducing.device) for key in keys]

    def _held(self, key: str, names: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Features and signals of a picture, where all of them are held."""
        held = self._reducing.held
        features, signals = held.get(key), {name: held.get(f"{key} {name}") for name in names}
        whole = {name: value for name, value in signals.items() if value is not None}
        return None if features is None or len(whole) < len(signals) else (features, whole)

    def _hold(self, key: str, features: Tensor, signals: dict[str, Tensor]) -> None:
        for name, value in signals.items():
            self._reducing.held.put(f"{key} {name}", value)
        self._reducing.held.put(key, features)

    def _groups(self, pictures: dict[str, ModelInputs]) -> list[list[str]]:
        groups: list[list[str]] = []
        room = 0
        for key, picture in pictures.items():
            size = self.rows(picture)
            if not groups or size > room:
                groups.append([])
                room = AT_ONCE
            groups[-1].append(key)
            room -= size
        return groups


_KEY = "trimkit_key"  # of a picture, once its content was hashed
_SIGNALS = "trimkit_signals"  # of the tower, that its method asks for
_HELD = "trimkit_held"  # whether its features were there


def _one(value: Any, index: int) -> Any:
    part = value[index]
    return part.unsqueeze(0) if isinstance(part, Tensor) else [part]


def _together(values: list[Any]) -> Any:
    if not all(isinstance(value, Tensor) for value in values):
        return [each for value in values for each in value]
    if all(value.shape == values[0].shape for value in values):
        return values[0] if len(values) == 1 else torch.cat(values)
    return [value[0] for value in values]
