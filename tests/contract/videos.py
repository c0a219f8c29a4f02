"""Tiny models that take videos, batches of prompts with videos and pictures, and their reduced counterparts made by hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests import tiny
from tests.contract import tiny_families as more
from trimkit import ImageReport

VIDEO_TOKEN = 98
MIXED = ("vv", "iv", "", "vi")  # what a row holds, in order
VIDEOS = ("vv", "v", "", "v")
IMAGE_ARGUMENTS = ("pixel_values", "pixel_values_images", "image_sizes", "image_grid_thw")
VIDEO_ARGUMENTS = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")
_ALONG = ("input_ids", "attention_mask", "mm_token_type_ids")
Pictures = tuple[dict[str, Tensor], list[int], list[list[int]]]


@dataclass(frozen=True)
class VideoCase:
    """One architecture.

    Attributes:
        build: makes the model.
        pictures: encoder arguments of two images and four videos, tokens of each image, and of each video's frames.
        block: ids of one image or video in the prompt, from tokens a frame.
        positions: whether the model has 3-D positions.
        deeper: whether later layers are given features too.
        together: whether stock ``forward`` takes pictures and videos in one call.
    """

    build: Callable[[], Any]
    pictures: Callable[[Any], Pictures]
    block: Callable[[str, list[int]], list[int]]
    positions: bool = False
    deeper: bool = False
    together: bool = True

    def batch(self, media: tuple[str, ...] = MIXED, side: str = "left", model: Any = None) -> dict[str, Tensor]:
        """Rows of words and what ``media`` says, padded on ``side``."""
        arguments, images, videos = self.pictures(model or self.build())
        counts = {"i": iter([n] for n in images), "v": iter(videos)}
        rows, types = _rows(media, counts, self.block)
        batch = tiny.pad_rows(rows, side)
        if self.positions:
            batch["mm_token_type_ids"] = tiny.pad_rows(types, side)["input_ids"]
        wanted = VIDEO_ARGUMENTS if "i" not in "".join(media) else (*IMAGE_ARGUMENTS, *VIDEO_ARGUMENTS)
        return {**batch, **{name: value for name, value in arguments.items() if name in wanted}}


def _rows(
    media: tuple[str, ...], counts: dict[str, Iterator[list[int]]], block: Callable[[str, list[int]], list[int]]
) -> tuple[list[list[int]], list[list[int]]]:
    generator = torch.Generator().manual_seed(23)
    rows, types = [], []
    for kinds in media:
        row, type_ = [1, 5], [0, 0]
        for kind in kinds:
            ids = block(kind, next(counts[kind]))
            row += [*ids, 6, 7]
            type_ += [(1 if kind == "i" else 2) * (i in (tiny.IMAGE_TOKEN, VIDEO_TOKEN)) for i in ids] + [0, 0]
        row += torch.randint(9, 90, (2 + len(row) % 5,), generator=generator).tolist()
        rows.append(row)
        types.append(type_ + [0] * (len(row) - len(type_)))
    return rows, types


def row_of(batch: dict[str, Tensor], media: tuple[str, ...], row: int) -> dict[str, Tensor]:
    """One row alone, without padding."""
    real = batch["attention_mask"][row].bool()
    out = {name: batch[name][row : row + 1, real] for name in _ALONG if name in batch}
    for kind, names, grids in (("i", IMAGE_ARGUMENTS, "image_grid_thw"), ("v", VIDEO_ARGUMENTS, "video_grid_thw")):
        first, count = "".join(media[:row]).count(kind), media[row].count(kind)
        if not count:
            continue
        for name in names:
            if name not in batch:
                continue
            values: Any = batch[name]
            if grids in batch and name.startswith("pixel"):
                parts = values.split(batch[grids].prod(dim=1).tolist())
                out[name] = torch.cat(parts[first : first + count])
            else:
                out[name] = values[first : first + count]
    return out


def other(batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The batch with other pixels."""
    return {**batch, name: (batch[name].flip(-1) * 0.7 + 0.1) * (batch[name] != 0)}


def places(case: VideoCase, batch: dict[str, Tensor], medium: str) -> Tensor:
    if case.together:
        return batch["input_ids"] == (tiny.IMAGE_TOKEN if medium == "image" else VIDEO_TOKEN)
    return (batch["input_ids"] == tiny.IMAGE_TOKEN) & (batch["mm_token_type_ids"] == (1 if medium == "image" else 2))


def hand_built(
    case: VideoCase, model: Any, batch: dict[str, Tensor], images: tuple[ImageReport, ...]
) -> dict[str, Any]:
    """The reduced batch made by hand: no code of the library, only its chosen indices; ``deep`` for deep-stack features."""
    features = {medium: _features(model, batch, medium) for medium in ("image", "video")}
    columns = {medium: places(case, batch, medium) for medium in features}
    embed, positions = model.get_input_embeddings(), _positions(case, model, batch)
    width, rows = batch["input_ids"].shape[1], []
    for row in range(len(batch["input_ids"])):
        text = batch["attention_mask"][row].bool() & ~columns["image"][row] & ~columns["video"][row]
        items = [(float(i), [embed(batch["input_ids"][row, i])], i) for i in range(width) if text[i]]
        left = {medium: where[row].nonzero().squeeze(1).tolist() for medium, where in columns.items()}
        for report in (each for each in images if each.row == row):
            medium, count = report.medium, report.tokens_before
            mine, features[medium] = [f[:count] for f in features[medium]], [f[count:] for f in features[medium]]
            items += _kept(report, mine, left[medium][:count])
            left[medium] = left[medium][count:]
        rows.append(sorted(items, key=lambda item: item[0]))
    return _padded(rows, positions)


def logits_of(case: VideoCase, model: Any, built: dict[str, Any]) -> Tensor:
    """Stock logits of what ``hand_built`` gave."""
    inputs = {name: value for name, value in built.items() if name not in ("visual", "deep")}
    if not case.deeper:
        return model(**inputs).logits  # type: ignore[no-any-return]
    hidden = model.model.language_model(
        **inputs, visual_pos_masks=built["visual"], deepstack_visual_embeds=built["deep"]
    ).last_hidden_state
    return model.lm_head(hidden)  # type: ignore[no-any-return]


def _features(model: Any, batch: dict[str, Tensor], medium: str) -> list[Tensor]:
    """``[n, D]`` of all images or videos in a row; then the same for each deeper layer."""
    names = IMAGE_ARGUMENTS if medium == "image" else VIDEO_ARGUMENTS[:2]
    arguments = {name: batch[name] for name in names if name in batch}
    if not arguments:
        return []
    output = getattr(model.model, f"get_{medium}_features")(**arguments, return_dict=True)
    layers = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
    return [torch.cat([each.flatten(0, -2) for each in layer]) for layer in layers]


def _positions(case: VideoCase, model: Any, batch: dict[str, Tensor]) -> Tensor | None:
    if not case.positions:
        return None
    names = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "attention_mask")
    positions, _ = model.model.get_rope_index(batch["input_ids"], **{n: batch[n] for n in names if n in batch})
    return positions  # type: ignore[no-any-return]


def _kept(report: ImageReport, features: list[Tensor], columns: list[int]) -> list[tuple[float, list[Tensor], int]]:
    kept = report.indices.tolist()
    assert kept == sorted(set(kept)), "not in the order of time"
    rest = [i for i in range(len(columns)) if i not in kept]
    items = [(float(columns[i]), [layer[i] for layer in features], columns[i]) for i in kept]
    if report.aggregated:
        mean = [layer[rest].mean(dim=0) for layer in features]
        items.append(((columns[kept[-1]] if kept else columns[0]) + 0.5, mean, columns[rest[len(rest) // 2]]))
    return items


def _padded(rows: list[list[tuple[float, list[Tensor], int]]], positions: Tensor | None) -> dict[str, Any]:
    width = max(map(len, rows))
    embeds = torch.zeros(len(rows), width, len(rows[0][0][1][0]))
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    visual = torch.zeros(len(rows), width, dtype=torch.bool)
    axes = torch.zeros(3, len(rows), width, dtype=torch.long)
    deep: list[list[Tensor]] = []
    for i, items in enumerate(rows):
        start = width - len(items)
        mask[i, start:] = 1
        for column, (_, layers, source) in enumerate(items, start):
            embeds[i, column] = layers[0]
            if positions is not None:
                axes[:, i, column] = positions[:, i, source]
            if len(layers) > 1:
                visual[i, column] = True
                deep.append(layers[1:])
    out: dict[str, Any] = {"inputs_embeds": embeds, "attention_mask": mask}
    if positions is not None:
        out["position_ids"] = axes
    if deep:
        out |= {"visual": visual, "deep": [torch.stack(layer) for layer in zip(*deep, strict=True)]}
    return out


def _plain_block(kind: str, frames: list[int]) -> list[int]:
    return [tiny.IMAGE_TOKEN if kind == "i" else VIDEO_TOKEN] * sum(frames)


def _qwen_block(kind: str, frames: list[int]) -> list[int]:
    return [97, *_plain_block(kind, frames), 96]


def _timed_block(kind: str, frames: list[int]) -> list[int]:
    return [i for n in frames for i in (*([8] if kind == "v" else []), *_qwen_block(kind, [n]))]


def _glm_block(kind: str, frames: list[int]) -> list[int]:
    one = [i for n in frames for i in (97, *[tiny.IMAGE_TOKEN] * n, 96, *([8] if kind == "v" else []))]
    return one if kind == "i" else [95, *one, 94]


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels_name(model: Any) -> str:
    """What the stock model calls a picture's pixels: Video-LLaVA has a name of its own before transformers 5.23."""
    taken = inspect.signature(type(model).forward).parameters
    return "pixel_values" if "pixel_values" in taken else "pixel_values_images"


def _square_pictures(model: Any, images: dict[str, Tensor] | None = None) -> Pictures:
    images = images or {pixels_name(model): tiny.pixels(2, seed=31)}
    videos = {"pixel_values_videos": _random(4, 3, 3, 24, 24, seed=37)}
    with torch.no_grad():
        found = model.model.get_image_features(**images, return_dict=True).pooler_output
        seen = model.model.get_video_features(**videos, return_dict=True).pooler_output
    each, rest = divmod(sum(frame.flatten(0, -2).shape[0] for frame in seen) // 4, 3)
    return {**images, **videos}, [len(image) for image in found], [[each, each, each + rest]] * 4


def _tiled_pictures(model: Any) -> Pictures:
    pixels = _random(2, 5, 3, 24, 24, seed=31)
    pixels[0, 3:] = 0.0
    return _square_pictures(model, {"pixel_values": pixels, "image_sizes": torch.tensor([[24, 48], [48, 48]])})


def _patch_pictures(model: Any) -> Pictures:
    images, videos = torch.tensor([[1, 8, 12], [1, 4, 8]]), torch.tensor([[2, 4, 8], [3, 4, 4], [1, 8, 8], [2, 8, 4]])
    arguments = {
        "pixel_values": _random(int(images.prod(dim=1).sum()), 96, seed=41),
        "image_grid_thw": images,
        "pixel_values_videos": _random(int(videos.prod(dim=1).sum()), 96, seed=43),
        "video_grid_thw": videos,
    }
    if model.config.model_type == "qwen2_5_vl":
        arguments["second_per_grid_ts"] = torch.tensor([0.5, 1.0, 2.0, 1.0])
    frames = [[h * w // 4] * t for t, h, w in videos.tolist()]
    return arguments, [h * w // 4 for _, h, w in images.tolist()], frames


CASES = {
    "llava_onevision": VideoCase(more.llava_onevision, _tiled_pictures, _plain_block),
    "llava_next_video": VideoCase(more.llava_next_video, _tiled_pictures, _plain_block),
    "video_llava": VideoCase(more.video_llava, _square_pictures, _plain_block),
    "qwen2_vl": VideoCase(more.qwen2_vl, _patch_pictures, _qwen_block, positions=True),
    "qwen2_5_vl": VideoCase(tiny.qwen2_5_vl, _patch_pictures, _qwen_block, positions=True),
    "qwen3_vl": VideoCase(more.qwen3_vl, _patch_pictures, _timed_block, positions=True, deeper=True),
    "glm4v": VideoCase(more.glm4v, _patch_pictures, _glm_block, positions=True, together=False),
}
