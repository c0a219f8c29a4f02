"""Where a video's tokens look: a spot in one frame must land on the tokens that see it, and on no other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import trimkit
from tests.contract.test_geometry import _changed, _silence
from tests.contract.videos import CASES, VIDEO_TOKEN
from tests.unit.test_query import Letters
from trimkit.core.geometry import box_means
from trimkit.core.types import ImageTokens
from trimkit.models import family_of
from trimkit.pipeline.media import EncodedMedia, question_ids
from trimkit.pipeline.query_reader import QueryReader


def _spot(values: Tensor, patches: bool, frame: int) -> Tensor:
    """One video's pixels with a spot in ``frame``: a corner of the picture, or one patch of it."""
    values = values.clone()
    if patches:
        values[frame * (len(values) // 2) + 3] += 1.0
    else:
        values[0, frame, :, 4:8, 16:20] += 1.0
    return values


def _one_video(name: str, model: Any) -> dict[str, Tensor]:
    if CASES[name].positions:
        pixels = torch.randn(2 * 4 * 8, 96, generator=torch.Generator().manual_seed(1))
        return {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[2, 4, 8]])}
    return {"pixel_values_videos": torch.randn(1, 2, 3, 24, 24, generator=torch.Generator().manual_seed(1))}


@pytest.mark.parametrize("frame", [0, 1])
@pytest.mark.parametrize("name", sorted(CASES))
def test_a_spot_lands_on_the_tokens_of_its_frame(name: str, frame: int) -> None:
    model = _silence(CASES[name].build())
    videos: Any = family_of(model).videos
    plain = _one_video(name, model)
    spotted = {
        **plain,
        "pixel_values_videos": _spot(plain["pixel_values_videos"], CASES[name].positions, frame),
    }
    with torch.no_grad():
        (before,), (after,) = videos.encode(model, plain), videos.encode(model, spotted)
        claimed = _changed(videos.views(model, spotted, after), videos.views(model, plain, before), len(after))
    truth = (after.features - before.features).abs().amax(dim=1) > 1e-5
    if name == "video_llava":  # CLS looks at the whole frame, which silenced attention cannot show
        first = frame * after.frames[0]
        assert claimed[first]
        claimed[first] = False
    assert truth.any()
    assert truth.tolist() == claimed.tolist()


class _Bright:
    """A scorer that finds what is bright."""

    needs_views = True
    profile = trimkit.EncoderProfile(sign=1)

    def similarity(self, images: Any, queries: Any, *, normalize: bool = False, truncate: bool = False) -> list[Tensor]:
        out = []
        for image in images:
            scores = torch.zeros(len(image))
            for view in image.views:
                scores[view.tokens] = box_means(view.pixels.amax(dim=0), view.boxes, *view.pixels.shape[1:])
            out.append(scores * 20)
        return out


@pytest.mark.parametrize("share", ["image", "frame"])
def test_a_scorer_of_pixels_sees_the_frames(share: str) -> None:
    model = CASES["llava_next_video"].build()
    pixels = torch.zeros(1, 2, 3, 24, 24)
    pixels[0, 1, :, 8:16, 16:24] = 5.0  # row 1, column 2 of the 3 x 3 tokens of the second frame
    statistics = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = SimpleNamespace(video_processor=statistics, image_processor=SimpleNamespace())
    ids = torch.tensor([[1, *[VIDEO_TOKEN] * 18, 7]])
    options: dict[str, Any] = {"budget": 1, "aggregate": "none", "share": share}
    with trimkit.reduce(model, processor, scorer=_Bright(), query="where", **options) as trim:
        model.generate(input_ids=ids, pixel_values_videos=pixels, max_new_tokens=1, do_sample=False)
        best = trim.report.images[-1]
    assert int(best.indices[0]) == 5 + (9 if share == "image" else 0)


def test_a_question_is_read_without_what_stands_between_frames() -> None:
    ids = torch.tensor([[1, 8, 98, 98, 8, 98, 98, 8, 5, 6]])
    family: Any = family_of(CASES["qwen3_vl"].build())
    video = ImageTokens(torch.zeros(4, 2), frames=(2, 2))
    seen = EncodedMedia(family.videos, {}, [video], [False], ids == VIDEO_TOKEN)
    assert question_ids(ids, [seen], 99).tolist() == [[1, 8, 99, 99, 99, 99, 99, 8, 5, 6]]
    assert ids[0, 4] == 8


@pytest.mark.parametrize(
    "marks",
    [
        "<0.5 seconds> <12.0 seconds>",
        "Frame1: Frame2:",
        "You are provided the following series of two frames from a 0:00:12 [H:MM:SS] video. Frame from 00:00:",
    ],
)
def test_words_around_frames_are_no_part_of_the_question(marks: str) -> None:
    ids = torch.tensor([ord(letter) for letter in f"USER: {marks} What is\n this? ASSISTANT:"])
    assert QueryReader(Letters()).read(ids, -1) == "What is this?"
