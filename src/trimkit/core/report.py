"""What a reduced call says of itself: tokens before and after, image by image, seconds by stage; and a drawing on demand."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from trimkit.errors import ConfigError

__all__ = ["ImageReport", "Report", "ReportRenderer", "Rung", "StageSeconds"]


@dataclass(frozen=True, repr=False)
class ImageReport:
    """Before and after of one image: ``row`` is its batch row, ``tokens_*`` count tokens the language model sees.

    ``medium`` is ``image``, or ``video`` for a video (with ``share="frame"``, for one frame of it); ``frames`` counts what each
    of its frames has before. ``groups`` ``[N]`` int64 is set by a method that merges: which kept token each token went into,
    -1 where it went into none. ``class_token`` says that the tower's class token is kept, too. ``query`` is what it was scored
    against: None where the method reads no text, and where the user says nothing; ``note`` says why it is not what its turn
    says, where it is not.
    """

    row: int
    query: str | None
    tokens_before: int
    tokens_after: int
    indices: Tensor
    aggregated: bool
    grid: tuple[int, int] | None
    scores: Tensor | None
    relevance: Tensor | None
    cached: bool = False
    medium: str = "image"
    frames: tuple[int, ...] = ()
    groups: Tensor | None = None
    class_token: bool = False
    note: str | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether every token of the image stayed as it was."""
        return not (self.aggregated or self.class_token) and int(self.indices.numel()) == self.tokens_before

    def __repr__(self) -> str:
        asked = "" if self.query is None else f", query={_short(self.query)!r}"
        kept = f"{self.tokens_before} -> {self.tokens_after} tokens"
        return f"ImageReport({self.medium}, row={self.row}{asked}, {kept}, grid={self.grid})"


@dataclass
class StageSeconds:
    """Seconds per stage of one call: by the CPU's clock, or what a GPU took, which is waited for when they are read.

    ``prefill`` ends with the first forward pass of the language model; ``text`` is the question's encoding; ``shrink`` is the
    gathering of what was kept and the shortening of the prompt.
    """

    vision: float = 0.0
    text: float = 0.0
    select: float = 0.0
    shrink: float = 0.0
    project: float = 0.0
    prefill: float = 0.0


@dataclass(frozen=True)
class Rung:
    """One of the tries of a call with ``fallback=``.

    Attributes:
        budget: in words.
        asked, answered: batch rows that were asked there, and those whose answer stayed.
        tokens: image tokens that the language model was given, and by_row those of each row in ``asked``.
        seconds: wall-clock time, decoding included.
    """

    budget: str
    asked: tuple[int, ...]
    answered: tuple[int, ...]
    tokens: int
    by_row: tuple[int, ...]
    seconds: float


class ReportRenderer(Protocol):
    """Draws a report; who makes the report hands it over, since it knows where the pixels are."""

    def draw(self, report: Report, **options: Any) -> Any:
        """A PIL image; ``options`` as ``trimkit.viz.draw_report`` takes them."""

    def save(self, picture: Any, path: str | Path) -> Path:
        """Write a drawn picture, whole or not at all."""

    def html(self, report: Report) -> str:
        """A piece of HTML."""


@dataclass(frozen=True, repr=False)
class Report:
    """What the last reduced call did; ``reused`` columns of the prompt were taken from a cache of earlier turns.

    ``draw``, ``show`` and ``save`` draw what was kept on the pictures as the model's encoder was given them. The report holds
    those pixels by reference, as long as it lives; a copy that is pickled is without them.

    With ``fallback=``, ``images`` are those of the answers that stayed, and ``rungs`` says what was tried for them.
    """

    method: str
    images: tuple[ImageReport, ...] = ()
    seconds: StageSeconds = field(default_factory=StageSeconds)
    reused: int = 0
    renderer: ReportRenderer | None = field(default=None, compare=False)
    rungs: tuple[Rung, ...] = ()

    @property
    def tokens_tried(self) -> int:
        """Image tokens that the language model was given in all: those of answers that did not stay are counted, too."""
        return sum(rung.tokens for rung in self.rungs) if self.rungs else self.tokens_after

    def tokens_of_row(self, row: int) -> int:
        """Image tokens that the language model was given for one batch row, in all tries."""
        if not self.rungs:
            return sum(image.tokens_after for image in self.images if image.row == row)
        tried = [dict(zip(rung.asked, rung.by_row, strict=True)) for rung in self.rungs]
        return sum(tokens.get(row, 0) for tokens in tried)

    @property
    def tokens_before(self) -> int:
        """Image tokens of the whole call without reduction."""
        return sum(image.tokens_before for image in self.images)

    @property
    def tokens_after(self) -> int:
        """Image tokens of the whole call as run."""
        return sum(image.tokens_after for image in self.images)

    @property
    def removed(self) -> float:
        """Share of image tokens removed, 0 to 1; 0 where there was no image."""
        return 1.0 - self.tokens_after / self.tokens_before if self.tokens_before else 0.0

    def draw(self, **options: Any) -> Any:
        """The call as one PIL image: kept patches clear, relevance beside them, the question below.

        Args:
            options: ``title``, ``lines``, ``question`` and what else ``trimkit.viz.draw_report`` takes.

        Raises:
            ConfigError: this report was made without pictures (read from a file, or built by hand).
        """
        if self.renderer is None:
            raise ConfigError("this report has no pictures to draw on: take it from an attached model's call")
        return self.renderer.draw(self, **options)

    def show(self, **options: Any) -> None:
        """Show the drawing: in the cell of a notebook, elsewhere in the desktop's picture viewer.

        Raises:
            ConfigError: as ``draw`` does.
        """
        picture = self.draw(**options)
        ipython = sys.modules.get("IPython")
        if ipython is not None and ipython.get_ipython() is not None:
            ipython.display.display(picture)
        else:
            picture.show(title="trimkit")

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the drawing to a .png, .jpg or .webp file; returns where.

        Raises:
            ConfigError: as ``draw`` does.
            InputError: the name's ending, the directory or the disk.
        """
        if self.renderer is None:
            raise ConfigError("this report has no pictures to draw on: take it from an attached model's call")
        return self.renderer.save(self.draw(**options), path)

    def __repr__(self) -> str:
        counted = len(self.images)
        kind = "image" if all(image.medium == "image" for image in self.images) else "picture"
        images = f"{counted} {kind}{'' if counted == 1 else 's'}"
        reused = f", {self.reused} columns reused" if self.reused else ""
        again = sum(len(rung.asked) for rung in self.rungs[1:])
        reused += f", asked again: {again}, {self.tokens_tried} tokens in all" if self.rungs else ""
        return (
            f"Report({self.method}: {self.tokens_before} -> {self.tokens_after} image tokens "
            f"({self.removed:.0%} removed), {images}{reused}, {sum(asdict(self.seconds).values()):.3f} s)"
        )

    def _repr_html_(self) -> str | None:
        return None if self.renderer is None else self.renderer.html(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "renderer": None}


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else f"{flat[:59]}…"
