"""Qwen2-VL, 2.5 and 3: kept tokens keep their original (time, row, column) positions, text keeps its own.

vLLM works positions out when a request comes in, before any picture has been encoded. For models that prune videos it asks
again when the embeddings are there (``recompute_mrope_positions``), and takes trailing columns of the embeddings off. Kept
tokens bring their row and column that way. Positions of text, videos and whole pictures are right from the start: they are
those of the full prompt, without the columns that are dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimkit.core.types import ImageTokens, Selection
from trimkit.errors import ConfigError
from trimkit.models import ModelInputs
from trimkit.serving.vllm.base_model import ReducingModel
from trimkit.serving.vllm.settings import Reduction

__all__ = ["QwenModel", "asks_for_positions", "marked", "placed"]

_log = logging.getLogger("vllm.trimkit")
_MARKS = 5  # whether the token was chosen, then row and column in two digits each
_DIGIT = 256  # whole numbers up to here are exact in bfloat16
_ON = 1e-18  # of a video's tokens: none, but vLLM then asks for positions again
_PATCHES_A_ROW = 1024


class QwenModel(ReducingModel):
    """What the Qwen families share."""

    visual: Any
    supports_multimodal_pruning: ClassVar[bool] = True  # vLLM's word for what the module says

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        pruning = vllm_config.model_config.multimodal_config
        if pruning.video_pruning_rate:
            raise ConfigError(
                "trimkit and --video-pruning-rate both set positions of this model's tokens: leave one out"
            )
        asked = asks_for_positions()
        pruning.video_pruning_rate = _ON if asked else pruning.video_pruning_rate
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._marks = asked
        self.is_multimodal_pruning_enabled = False  # the stock class leaves videos and whole pictures alone
        text = self.config.get_text_config()
        self._most_positions = int(text.max_position_embeddings)

    def get_encoder_cudagraph_config(self) -> Any:
        """None for pictures or videos: a graph would run in the place of ``embed_multimodal``."""
        stock = super().get_encoder_cudagraph_config()  # type: ignore[misc]
        return replace(stock, modalities=[])

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """As the base, with the columns that say where a token stands."""
        found = super().embed_multimodal(**kwargs)
        if found is None or not self._marks:
            return found
        return [each if each.shape[1] > self._width else marked(each) for each in found]

    def split_pictures(self, arguments: ModelInputs) -> list[ModelInputs]:
        grids = arguments["image_grid_thw"]
        patches = arguments["pixel_values"].split(grids.prod(dim=-1).tolist())
        return [{"pixel_values": part, "image_grid_thw": grids[i : i + 1]} for i, part in enumerate(patches)]

    def join_pictures(self, pictures: Sequence[ModelInputs]) -> ModelInputs:
        return {name: torch.cat([picture[name] for picture in pictures]) for name in ("pixel_values", "image_grid_thw")}

    def rows(self, picture: ModelInputs) -> int:
        return 1 + len(picture["pixel_values"]) // _PATCHES_A_ROW

    def ranked(self, picture: ModelInputs, features: Tensor) -> list[ImageTokens]:
        _, rows, columns = self._grid(picture["image_grid_thw"][0])
        return [ImageTokens(features[:, : self._scored_width], (rows, columns))]

    def encoder_arguments(self, picture: ModelInputs, number: int) -> ModelInputs:
        """Pixels as transformers' processor gives them: vLLM may leave the normalization to the tower."""
        tower: Any = getattr(self, "visual")  # noqa: B009  # vLLM's class has it
        pixels = tower.input_norm(picture["pixel_values"], torch.float32)
        return {"pixel_values": pixels, "image_grid_thw": picture["image_grid_thw"]}

    def cut(self, picture: ModelInputs, image: ImageTokens, whole: Tensor, reduction: Reduction) -> Tensor:
        kept, selection = self._reducing.chooser.kept(image, reduction, whole)
        _, _, columns = self._grid(picture["image_grid_thw"][0])
        return marked(kept, _places(selection)[: len(kept)], columns)

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Stock positions of the full prompt, without the columns that are dropped."""
        tokens, features, keep, added, at = [], [], [], 0, 0
        for feature in sorted(mm_features, key=lambda each: each.mm_position.offset):
            place = feature.mm_position
            total = self._total(feature)
            extra = max(total - place.length, 0)
            end = place.offset + place.length
            tokens += [*input_tokens[at:end], *[self.config.image_token_id] * extra]
            keep += [True] * (end - at) + [False] * extra
            shifted = {"offset": place.offset + added} | ({"length": total} if extra else {})
            features.append(replace(feature, mm_position=replace(place, **shifted)))
            added, at = added + extra, end
        tokens += input_tokens[at:]
        keep += [True] * (len(input_tokens) - at)
        positions, _ = super().get_mrope_input_positions(tokens, features)  # type: ignore[misc]
        found = self._bounded(positions[:, torch.tensor(keep, dtype=torch.bool)])
        return found, int(found.max()) + 1 - len(input_tokens)

    def recompute_mrope_positions(
        self, input_ids: Any, multimodal_embeddings: Sequence[Tensor], mrope_positions: Any, num_computed_tokens: int
    ) -> tuple[list[Tensor], Tensor, int]:
        """The embeddings without their marks, and the positions with those of chosen tokens put in."""
        ids = torch.as_tensor(input_ids, device=mrope_positions.device)
        positions = mrope_positions.clone()
        if len(multimodal_embeddings):
            marks = torch.cat([each[:, -_MARKS:] for each in multimodal_embeddings]).to(positions.device).long()
            images = ids == self.config.image_token_id
            media = images | (ids == self.config.video_token_id)
            columns = media.nonzero().squeeze(1)
            columns = columns[columns >= num_computed_tokens][: len(marks)]
            positions = self._bounded(placed(positions, images, columns, marks[: len(columns)]))
        delta = int(positions.max()) + 1 - len(ids)
        return [each[:, :-_MARKS] for each in multimodal_embeddings], positions, delta

    def _bounded(self, positions: Tensor) -> Tensor:
        """Within what the rotary embedding holds; a request beyond it was refused, unless its pictures were not known."""
        if int(positions.max()) >= self._most_positions:
            _log.warning("trimkit: pictures whose positions reach beyond %d", self._most_positions)
            return positions.clamp(max=self._most_positions - 1)
        return positions

    def _total(self, feature: Any) -> int:
        """Tokens of a picture without reduction; of a video, those it has."""
        if feature.modality != "image" or feature.data is None or "image_grid_thw" not in feature.data:
            return int(feature.mm_position.length)
        times, rows, columns = self._grid(feature.data["image_grid_thw"].data)
        return times * rows * columns

    def _grid(self, grid: Tensor) -> tuple[int, int, int]:
        """Frames, and rows and columns of tokens."""
        merge = self.config.vision_config.spatial_merge_size
        times, rows, columns = (int(n) for n in grid.tolist())
        return times, rows // merge, columns // merge

    @property
    def _scored_width(self) -> int:
        """Columns of the features that are ranked; behind them stand those for deeper layers."""
        return int(self.config.get_text_config().hidden_size)

    @property
    def _width(self) -> int:
        """Columns of the stock class's embeddings."""
        return self._scored_width


def asks_for_positions() -> bool:
    """Whether the runner calls ``recompute_mrope_positions``: vLLM's CPU runner never does (0.32, 0.33)."""
    from vllm.platforms import current_platform

    return not current_platform.is_cpu()


def marked(features: Tensor, places: Tensor | None = None, columns: int = 1) -> Tensor:
    """``[k, D]`` features with their marks behind them, ``[k, D + 5]``.

    Args:
        features: of one picture or video.
        places: ``[k]`` number of each in its grid, or None where positions are right as they are.
        columns: of the grid.
    """
    if places is None:
        return torch.cat([features, features.new_zeros(len(features), _MARKS)], dim=1)
    rows, columns_ = (places // columns).to(features.device), (places % columns).to(features.device)
    digits = [torch.ones_like(rows), rows // _DIGIT, rows % _DIGIT, columns_ // _DIGIT, columns_ % _DIGIT]
    return torch.cat([features, torch.stack(digits, dim=1).to(features.dtype)], dim=1)


def placed(positions: Tensor, images: Tensor, columns: Tensor, marks: Tensor) -> Tensor:
    """``[3, L]`` positions with those of chosen tokens put in.

    Args:
        positions: ``[3, L]``, right for text.
        images: ``[L]`` bool, where placeholders of pictures stand.
        columns: ``[n]``, which of them get embeddings now.
        marks: ``[n, 5]`` of those embeddings.
    """
    chosen = marks[:, 0] == 1
    mine, at = columns[chosen], marks[chosen]
    before = torch.cat([images.new_zeros(1), images[:-1]])
    numbers = torch.arange(len(images), device=images.device)
    start = torch.where(images & ~before, numbers, 0).cummax(0).values[mine]
    # A picture begins behind the text before it: its own columns may hold what an earlier step has put there.
    first = torch.where(start > 0, positions[0, (start - 1).clamp(min=0)] + 1, 0)
    out = positions.clone()
    out[0, mine] = first
    out[1, mine] = first + at[:, 1] * _DIGIT + at[:, 2]
    out[2, mine] = first + at[:, 3] * _DIGIT + at[:, 4]
    return out


def _places(selection: Selection) -> Tensor:
    """``[k]``: a kept token's own place; the aggregated one's is that of the middle one of those it stands for."""
    indices = selection.indices
    if not selection.aggregated:
        return indices
    dropped = torch.ones(selection.total, dtype=torch.bool, device=indices.device)
    dropped[indices] = False
    rest = dropped.nonzero().squeeze(1)
    return torch.cat([indices, rest[len(rest) // 2 :][:1]])
