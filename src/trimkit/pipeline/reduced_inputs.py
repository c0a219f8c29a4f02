"""What a request becomes: inputs that a stock ``generate`` or ``forward`` takes, and what is kept of every image."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trimkit.core.prompt_layout import PromptLayout
from trimkit.core.types import ImageReport, ImageTokens, Report, ReportRenderer, Selection, StageSeconds
from trimkit.models import ModelInputs
from trimkit.pipeline.media import EarlierMedia, EncodedMedia, ImageQueries, MediaItem
from trimkit.pipeline.padding import plain_positions

__all__ = ["ImageEmbeddings", "ReducedImage", "ReducedInputs"]


@dataclass(frozen=True)
class ImageEmbeddings:
    """What is kept of one image, video or frame, for whatever prompt it stands in.

    Attributes:
        medium: ``image`` or ``video``.
        row: its batch row; without a prompt, the number of its picture.
        query: the question that it was scored against, or None where the method reads no text or the user says none.
        tokens: what is kept as the encoder gives it; ``tokens.features`` is ``[k, D]``, before the projector where the
            family can give it so: a kept class token first, the aggregated token last; ``tokens.layers`` are deep-stack
            features.
        embeddings: ``[k, H]``, what stands at its placeholders in the language model.
        selection: which tokens were kept; ``selection.indices`` are those of the uncut image, ascending, and
            ``selection.ordered`` the same in the order in which they stand in ``embeddings``.
        cached: whether its features came from a cache.
    """

    medium: str
    row: int
    query: str | None
    tokens: ImageTokens
    embeddings: Tensor
    selection: Selection
    cached: bool

    @property
    def indices(self) -> Tensor:
        """``[n]`` int64: which of the image's tokens stay; the aggregated and the class token are none of them."""
        return self.selection.indices

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the uncut image's tokens, or None where they are not one grid."""
        return self.tokens.grid

    @property
    def layers(self) -> tuple[Tensor, ...]:
        """``[k, H]`` each: what later layers of the language model are given at the same tokens (deep-stack features)."""
        return self.tokens.layers

    @property
    def relevance(self) -> Tensor | None:
        """``[N]`` float, how relevant each token of the uncut image is to the question (higher = more), or None."""
        return self.selection.relevance

    def __len__(self) -> int:
        """Tokens that the language model gets for it."""
        return len(self.embeddings)


@dataclass(frozen=True)
class ReducedImage(ImageEmbeddings):
    """What is kept of one image, video or frame of a prompt, and where it stands there.

    Attributes:
        columns: ``[k]`` int64, its columns in the shortened prompt.
        positions: ``[k]`` or ``[axes, k]`` int64, the position ids of its tokens in the language model.
    """

    columns: Tensor
    positions: Tensor


@dataclass(frozen=True)
class ReducedInputs:
    """One reduced request.

    Attributes:
        model_inputs: what ``inputs`` gives, not copied.
        layout: how the prompt of ``[B, L]`` was shortened.
        placeholders_before: ``[B, L]`` bool on the host, where image and video tokens stood.
        items: the images, videos and frames as they were encoded, in the order of the prompts.
        queries: the questions about each.
        selections: what is kept of each.
        kept: the kept tokens of each, before the projector.
        embeddings: the same behind the projector, ``[k_i, H]``.
        encoded: all images and videos of the prompts as they were encoded.
        method: its name.
        seconds: wall-clock time of each stage.
        notes: what is to be known of each image's question, or None; empty where there is nothing.
        renderer: draws the report.
    """

    model_inputs: ModelInputs
    layout: PromptLayout
    placeholders_before: Tensor
    items: Sequence[MediaItem]
    queries: Sequence[ImageQueries]
    selections: Sequence[Selection]
    kept: Sequence[ImageTokens]
    embeddings: Sequence[Tensor]
    encoded: Sequence[EncodedMedia]
    method: str
    seconds: StageSeconds
    notes: Sequence[str | None] = ()
    renderer: ReportRenderer | None = None

    @property
    def inputs(self) -> ModelInputs:
        """What stock ``generate`` or ``forward`` is given: shortened ``input_ids`` ``[B, L']`` and all that runs along with it,
        and ``mm_encoder_outputs`` in place of pixels.

        A new dict at each access, for one call: with beams, ``generate`` changes the encoded images that it is given.
        """
        encoded = self.model_inputs.get("mm_encoder_outputs")
        if encoded is None:
            return dict(self.model_inputs)
        return {**self.model_inputs, "mm_encoder_outputs": {name: copy(output) for name, output in encoded.items()}}

    @cached_property
    def placeholders(self) -> Tensor:
        """``[B, L']`` bool, where image and video tokens stand in the shortened prompt."""
        return self.layout.places(self.placeholders_before, self.model_inputs["input_ids"].device)

    @cached_property
    def media(self) -> EarlierMedia:
        """All pictures of the prompts, for a later turn of the conversation."""
        return EarlierMedia.of(self.encoded, self.items, self.queries)

    @cached_property
    def report(self) -> Report:
        """Before and after of every image, as an attached model reports it."""
        return self.report_of(self.selections)

    def report_of(self, selections: Sequence[Selection]) -> Report:
        """The report with other selections: those of a method that chooses inside the language model."""
        parts = zip(self.items, self.queries, selections, self.notes or [None] * len(self.items), strict=True)
        return Report(self.method, tuple(_image_report(*each) for each in parts), self.seconds, renderer=self.renderer)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of every row's shortened prompt, without padding."""
        mask = self.model_inputs.get("attention_mask")
        ids = self.model_inputs["input_ids"]
        return [int(n) for n in (torch.ones_like(ids) if mask is None else mask).sum(dim=1)]

    @cached_property
    def positions(self) -> Tensor:
        """``[B, L']`` position ids in the language model; ``[axes, B, L']`` where they are 3-D (M-RoPE)."""
        given = self.model_inputs.get("position_ids")
        if given is None:
            return plain_positions(self.model_inputs["input_ids"], self.model_inputs.get("attention_mask"))
        return torch.as_tensor(given[-3:] if given.ndim == 3 else given)

    @cached_property
    def images(self) -> tuple[ReducedImage, ...]:
        """What is kept of every image, in the order of the prompts."""
        columns = self._columns()
        return tuple(
            ReducedImage(
                medium=item.family.medium,
                row=item.row,
                query=queries[-1],
                tokens=kept,
                embeddings=embeddings,
                selection=selection,
                columns=at,
                positions=self.positions[..., item.row, :][..., at],
                cached=item.cached,
            )
            for item, queries, kept, embeddings, selection, at in zip(
                self.items, self.queries, self.kept, self.embeddings, self.selections, columns, strict=True
            )
        )

    def _columns(self) -> list[Tensor]:
        used: dict[int, int] = {}
        found = []
        for item, embeddings in zip(self.items, self.embeddings, strict=True):
            start = used.get(item.row, 0)
            used[item.row] = start + len(embeddings)
            found.append(self.placeholders[item.row].nonzero().squeeze(1)[start : used[item.row]])
        return found


def _image_report(item: MediaItem, queries: ImageQueries, selection: Selection, note: str | None) -> ImageReport:
    return selection.reported(
        row=item.row,
        query=queries[-1],
        grid=item.image.grid,
        cached=item.cached,
        medium=item.family.medium,
        frames=item.image.frames,
        note=note,
        groups=None if selection.mixing is None else _groups(selection.mixing, selection.indices),
    )


def _groups(mixing: Tensor, indices: Tensor) -> Tensor:
    """``[N]`` int64: the kept token that takes most of each token, -1 where none takes anything; at ``indices`` its own.

    Numbers are those of ``indices``, whatever order the language model gets the tokens in.
    """
    most, group = mixing[: len(indices)].detach().abs().max(dim=0)
    found = group.masked_fill(most == 0, -1)
    found[indices] = torch.arange(len(indices), device=found.device)
    return found
