"""The records that travel between scorer, method, family and prompt layout. Frozen; their tensors are shared, not copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar

from pydantic import ConfigDict
from torch import Tensor

from trimkit.core.functional import sanitize
from trimkit.core.geometry import View
from trimkit.core.layer_read import LayerRead
from trimkit.core.report import ImageReport, Report, ReportRenderer, Rung, StageSeconds
from trimkit.core.transfer import upload
from trimkit.errors import ConfigError

__all__ = [
    "EncoderProfile",
    "ImageReport",
    "ImageTokens",
    "Midway",
    "Report",
    "ReportRenderer",
    "Rung",
    "Selection",
    "StageSeconds",
    "TokenBatch",
]


@dataclass(frozen=True)
class EncoderProfile:
    """How an image-text encoder's similarity is to be read; a property of the encoder, not of the method.

    Attributes:
        sign: +1 where relevant patches score high, -1 where they score low (OpenAI's CLIP: TRIM's released code negates).
        normalize: cosine instead of dot product.
        temperature: divides the similarity before the softmax.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # where it is read from a file

    sign: int = -1
    normalize: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: a sign other than 1 and -1, or a temperature that is not a positive number.
        """
        if isinstance(self.sign, bool) or self.sign not in (1, -1):
            raise ConfigError(f"encoder profile: sign {self.sign!r} is not 1 or -1")
        if not isinstance(self.normalize, bool):
            raise ConfigError(f"encoder profile: normalize {self.normalize!r} is not true or false")
        number = isinstance(self.temperature, (int, float)) and not isinstance(self.temperature, bool)
        if not (number and 0.0 < self.temperature < float("inf")):
            raise ConfigError(f"encoder profile: temperature {self.temperature!r} is not a positive number")


@dataclass(frozen=True)
class Midway:
    """A vision tower that has stopped in the middle.

    Attributes:
        layers: how many layers were run.
        head: ``[h, D]`` the state of tokens that stand before the patches (the class token's).
    """

    layers: int
    head: Tensor


@dataclass(frozen=True)
class ImageTokens:
    """The tokens of one image or video, before the projector where the family can give them so.

    Attributes:
        features: ``[N, D]``.
        grid: rows and columns of the token grid, or None where the tokens are not one grid (a video's never are).
        key: content hash of the image, stable across calls; seeds random methods and caches.
        layers: ``[N, D']`` each, what later layers of the language model are given at the same tokens (deep-stack features).
        tower_columns: which columns of ``features`` are the layer that a native scorer reads, where several stand side by side.
        views: what the encoder was given and which token sees which part of it; only where a scorer looks at pixels.
        frames: tokens of each frame of a video in turn, N in all; empty for an image.
        cls_attention: ``[N]`` float, what the tower's class token attends to at each patch, mean over heads, at the layer that
            gives ``features``; only where a method asks for it.
        keys: ``[N, K]`` attention keys of the patches at that layer, heads side by side; likewise.
        signals: what else a method has asked for, by name; ``trimkit.core.signals`` lists names and shapes.
        midway: set where the tower has not been run to its end yet; ``features`` are then the states at that layer.
        alive: ``[N]`` bool, which patches the tower was run to its end on, where it was not on all; the others have the
            features of the layer at which they were dropped, and are not selected.
        alive_count: how many that is, where the host knows it.
    """

    features: Tensor
    grid: tuple[int, int] | None = None
    key: str = ""
    layers: tuple[Tensor, ...] = ()
    tower_columns: tuple[int, int] | None = None
    views: tuple[View, ...] = ()
    frames: tuple[int, ...] = ()
    cls_attention: Tensor | None = None
    keys: Tensor | None = None
    midway: Midway | None = None
    alive: Tensor | None = None
    alive_count: int | None = None
    signals: Mapping[str, Tensor] = field(default_factory=dict, compare=False)

    def signal(self, name: str) -> Tensor | None:
        """The signal called ``name``, wherever it is held, or None."""
        given = {"cls_attention": self.cls_attention, "keys": self.keys}.get(name)
        return self.signals.get(name) if given is None else given

    def __len__(self) -> int:
        return int(self.features.shape[0])


@dataclass(frozen=True)
class TokenBatch:
    """What a method sees: B images padded to N tokens.

    Attributes:
        features: ``[B, N, D]``; zeros on padding.
        mask: ``[B, N]`` bool, true on real tokens.
        relevance: ``[B, N]`` raw text similarity, or None for a method that does not read the text.
        profile: how to read ``relevance``.
        grids: B token grids (or None).
        keys: B strings naming image and question, the same in a batch as alone.
        queries: the B questions, or None where nothing has asked; only the budget ``auto`` reads them.
        cls_attention: ``[B, N]``, see ``ImageTokens``; only for a method whose ``signals`` name it.
        tower_keys: ``[B, N, K]``, the ``keys`` of ``ImageTokens``; likewise.
        attention: ``[B, N]`` float, what the last prompt token attends to at each token, mean over heads; only for a method of
            ``stage`` ``llm``, whose ``features`` are hidden states of the language model.
        layer: at which of the method's cuts that is, and what else it reads there; likewise.
        signals: what else the method has asked for, by name: B tensors without padding, see ``trimkit.core.signals``.
        lengths: real tokens of each image as numbers of the host, what ``mask`` says on the device; see ``totals``.
        alive_counts: how many of them are ``alive`` in each image, where the host knows it of all.
    """

    features: Tensor
    mask: Tensor
    relevance: Tensor | None
    profile: EncoderProfile
    grids: tuple[tuple[int, int] | None, ...]
    keys: tuple[str, ...]
    cls_attention: Tensor | None = None
    tower_keys: Tensor | None = None
    attention: Tensor | None = None
    layer: LayerRead | None = None
    signals: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict, compare=False)
    lengths: tuple[int, ...] | None = None
    queries: tuple[str | None, ...] | None = None
    alive_counts: tuple[int, ...] | None = None

    @property
    def totals(self) -> tuple[int, ...]:
        """Real tokens of each image; they come first in its row. Without ``lengths``, the host waits for ``mask``."""
        return tuple(self.mask.sum(dim=1).tolist()) if self.lengths is None else self.lengths

    @property
    def padding(self) -> Tensor | None:
        """``mask`` where an image is padded, else None: what takes a mask can do without."""
        known = self.lengths is not None and all(length == self.mask.shape[1] for length in self.lengths)
        return None if known else self.mask

    @cached_property
    def _signed(self) -> dict[int, Tensor]:
        return {}

    def signed_relevance(self, sign: int) -> Tensor | None:
        """``[B, N]`` relevance with a sign, higher = more relevant, and finite; None where there is none.

        Computed once: a copy is to be made before it is changed in place.
        """
        if self.relevance is not None and sign not in self._signed:
            self._signed[sign] = sanitize(self.relevance * sign, self.padding)
        return None if self.relevance is None else self._signed[sign]

    def part(self, rows: Sequence[int], width: int, lengths: Sequence[int] | None = None) -> TokenBatch:
        """Some images, padded to ``width`` tokens; ``lengths`` are their real ones, by default as many."""
        lengths = tuple(lengths or (width,) * len(rows))
        if len(rows) == len(self.keys) and width == self.mask.shape[1]:
            return self if lengths == self.lengths else replace(self, lengths=lengths)
        index = upload(rows, self.mask.device) if len(rows) > 1 else None

        def cut(value: Any) -> Any:
            if isinstance(value, Tensor):
                some = value[rows[0] : rows[0] + 1] if index is None else value.index_select(0, index)
                return some[:, :width]
            if isinstance(value, LayerRead):
                return value.part(rows)
            if isinstance(value, Mapping):
                return {name: tuple(each[row] for row in rows) for name, each in value.items()}
            return tuple(value[row] for row in rows) if isinstance(value, tuple) else value

        parts = {each.name: cut(getattr(self, each.name)) for each in fields(self) if each.name != "lengths"}
        return TokenBatch(**parts, lengths=lengths)


@dataclass(frozen=True)
class Selection:
    """What is kept of one image.

    Attributes:
        indices: ``[k]`` int64, ascending; one is there twice only where a published code gives a token twice.
        total: N, the tokens before.
        aggregated: True where one token stands in for all that was dropped; it comes last.
        class_token: True where the vision tower's class token is kept, too; it comes first.
        order: ``[k]`` int64, which of ``indices`` comes first, second and so on in the language model; None where they stay
            in raster order.
        scores: ``[N]`` what the method ranked by (higher = keep), or None.
        relevance: ``[N]`` signed text relevance, or None.
        weights: ``[N]`` shares of the dropped tokens in the aggregated one, or None for their plain mean.
        mixing: ``[k, N]`` rows of a method that merges: kept token i becomes ``mixing[i] @ features`` and stands at
            ``indices[i]``; None where kept tokens stay as they are. One row more is the aggregated token's. Rows sum to 1,
            unless a published code's do not.
    """

    indices: Tensor
    total: int
    aggregated: bool = False
    scores: Tensor | None = None
    relevance: Tensor | None = None
    weights: Tensor | None = None
    mixing: Tensor | None = None
    class_token: bool = False
    order: Tensor | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether the image's tokens stay just as they are."""
        whole = not (self.aggregated or self.class_token) and self.order is None
        return whole and int(self.indices.numel()) == self.total

    @property
    def ordered(self) -> Tensor:
        """``[k]`` int64: ``indices`` in the order in which the language model gets them."""
        return self.indices if self.order is None else self.indices[self.order]

    @property
    def plain(self) -> bool:
        """Whether it is a set of tokens as they are, and not merged, reordered or joined by the class token."""
        return self.mixing is None and self.order is None and not self.class_token

    def __len__(self) -> int:
        """Tokens the language model sees for this image."""
        return int(self.indices.numel()) + int(self.aggregated) + int(self.class_token)

    def reported(self, *, row: int, query: str | None, grid: tuple[int, int] | None, **more: Any) -> ImageReport:
        """What a report says of it.

        Args:
            row, query, grid: where the image stands, what it was chosen for, rows and columns of its tokens.
            **more: further fields of ``ImageReport``; they win over the selection's own.
        """
        own: dict[str, Any] = {
            "tokens_before": self.total,
            "tokens_after": len(self),
            "indices": self.indices,
            "aggregated": self.aggregated,
            "scores": self.scores,
            "relevance": self.relevance,
            "class_token": self.class_token,
        }
        return ImageReport(row=row, query=query, grid=grid, **{**own, **more})
