"""The overlay: what it draws where, that nothing is clipped, and that writing is all or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trimkit import viz
from trimkit.core.types import ImageReport
from trimkit.demo import demo_model_path
from trimkit.errors import InputError
from trimkit.viz.lettering import Font, wrap

GRID = (24, 24)
HEADER, MARGIN = 36, 20


@pytest.fixture(scope="module")
def processor() -> object:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(demo_model_path())


def _report(
    indices: list[int], relevance: torch.Tensor | None = None, grid: tuple[int, int] | None = GRID
) -> ImageReport:
    return ImageReport(
        row=0,
        query="What?",
        tokens_before=576,
        tokens_after=len(indices),
        indices=torch.tensor(indices),
        aggregated=False,
        grid=grid,
        scores=None,
        relevance=relevance,
    )


def _panels(sheet: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    width = (sheet.width - 3 * MARGIN) // 2
    pixels = np.asarray(sheet)
    return pixels[HEADER : HEADER + width, MARGIN : MARGIN + width], pixels[
        HEADER : HEADER + width, 2 * MARGIN + width : -MARGIN
    ]


def _photo(width: int = 336, height: int = 336) -> Image.Image:
    noise = np.random.default_rng(0).integers(60, 255, (height // 12, width // 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def test_the_picture_is_what_the_model_saw(processor: object) -> None:
    wide = Image.new("RGB", (672, 336), "red")
    wide.paste("blue", (168, 0, 504, 336))  # what the centre crop leaves
    seen = viz.seen_by_model(wide, processor, GRID)
    assert seen.size == (336, 336)
    assert np.asarray(seen)[:, 4:-4].reshape(-1, 3).min(axis=0).tolist() == [0, 0, 255]


def test_a_processor_that_cuts_otherwise_leaves_the_whole_picture() -> None:
    def flattened(**_: object) -> dict[str, np.ndarray]:
        return {"pixel_values": np.zeros((64, 1176))}

    assert viz.seen_by_model(_photo(300, 150), flattened, (6, 12)).size == (336, 168)


def test_kept_patches_are_clear_and_dropped_ones_dim(processor: object) -> None:
    photo = _photo()
    cell = 5 * 24 + 7
    left, _ = _panels(viz.overlay(photo, _report([cell]), processor, question="What?"))
    shown = np.asarray(photo.resize((560, 560), Image.Resampling.LANCZOS))
    ys, xs = (
        slice(round(5 * 560 / 24) + 2, round(6 * 560 / 24) - 2),
        slice(round(7 * 560 / 24) + 2, round(8 * 560 / 24) - 2),
    )
    assert np.array_equal(left[ys, xs], shown[ys, xs])
    dropped = left[300:560]
    assert dropped.mean() < 0.5 * shown[300:560].mean()
    assert (dropped.max(axis=-1) == dropped.min(axis=-1)).all(), "dropped patches lose their colour"


def test_the_heat_map_peaks_where_relevance_does(processor: object) -> None:
    relevance = torch.zeros(GRID)
    relevance[3, 20] = 5.0
    _, right = _panels(viz.overlay(_photo(), _report([0], relevance.flatten()), processor, question="What?"))
    bright = right.astype(int).sum(axis=-1)
    row, column = np.unravel_index(bright.argmax(), bright.shape)
    assert (row * 24 // 560, column * 24 // 560) == (3, 20)


@pytest.mark.parametrize("relevance", [torch.zeros(576), torch.full((576,), float("nan"))])
def test_flat_and_undefined_relevance_are_drawn(relevance: torch.Tensor, processor: object) -> None:
    _, right = _panels(viz.overlay(_photo(), _report([0], relevance), processor, question="What?"))
    assert right.std() < 40


def test_notes_stand_in_for_what_there_is_not(processor: object) -> None:
    left, right = _panels(viz.overlay(_photo(), _report([1, 2]), processor, question="What?"))
    assert right.mean() > 220 > left.mean()
    whole, _ = _panels(viz.overlay(_photo(), _report([1, 2], grid=None), processor, question="What?"))
    assert whole.mean() > 1.5 * left.mean(), "without a grid nothing is dimmed"


def test_long_questions_wrap_and_end_in_an_ellipsis() -> None:
    font = Font(24)
    lines = wrap("how many dogs are there " * 100, font, 500, 4)
    assert len(lines) == 4
    assert all(font.getlength(line) <= 500 for line in lines)
    assert lines[-1].endswith("…")
    assert wrap("x" * 3000, font, 500, 2)[-1].endswith("…")
    assert wrap("short", font, 500, 4) == ["short"]
    assert " ".join(wrap("how many dogs are there in it", font, 200, 9)) == "how many dogs are there in it"


def test_the_sheet_grows_with_its_caption(processor: object) -> None:
    lines = [("full", "576 tokens", "yes"), ("trim", "121 tokens", "yes")]
    short = viz.overlay(_photo(), _report([0]), processor, question="What?", lines=lines, title="trim")
    long = viz.overlay(_photo(), _report([0]), processor, question="what " * 200, lines=lines, title="trim")
    assert long.height == short.height + 3 * 32
    below = np.asarray(short)[-MARGIN // 2 :]
    assert (below == below[0, 0]).all(), "the last line stands clear of the edge"


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.png"
    target.write_bytes(b"old")

    def half(_self: Image.Image, file: object, **_: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", half)
        with pytest.raises(InputError, match="No space left"):
            viz.save_picture(_photo(), target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
    viz.save_picture(_photo(), target)
    with Image.open(target) as drawn:
        assert drawn.size == (336, 336)


@pytest.mark.parametrize("name", ["out.bmp", "out", "missing/out.png", "folder.png"])
def test_places_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="cannot write") as caught:
        viz.check_output(tmp_path / name)
    assert "\n" not in str(caught.value)
