"""Relevance from an image-text encoder of the user's choice, for models whose own tower has no text counterpart.

The encoder looks at the very pixels that the model's encoder was given (resized to its own number of patches, aspect ratio
kept), and its map is averaged over the box that each image token sees: crop, tiles, padding and merging are right by
construction. CLIP is read as TRIM reads it; SigLIP has no patch projection, so its pooling head is run on every patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from trimkit.core import functional as F
from trimkit.core.geometry import View, box_means
from trimkit.core.types import EncoderProfile, ImageTokens
from trimkit.errors import ConfigError
from trimkit.scorers._looks import Looks
from trimkit.scorers._text import TextEncoder
from trimkit.scorers.base import EncoderScorer
from trimkit.scorers.checkpoint import EncoderCheckpoint
from trimkit.scorers.clip_native import clip_text

__all__ = ["ExternalScorer", "Published"]


class Published(NamedTuple):
    """What is known of a kind of encoder: its similarity's sign, mean and deviation of the pixels it was trained on."""

    sign: Literal[-1, 1]
    mean: tuple[float, ...]
    std: tuple[float, ...]


_CLIP = Published(-1, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_SIGLIP = Published(1, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class ExternalScorer(EncoderScorer):
    """A whole CLIP or SigLIP model beside the one that answers; may be shared by several models.

    Another kind of encoder is a subclass: it says what is ``published`` about its kind, and overrides ``text_encoder`` or
    ``patches`` where its towers are called in another way than CLIP's.

    Args:
        encoder: a ``CLIPModel`` or ``SiglipModel``.
        tokenizer: its tokenizer.
        profile: how its similarity is to be read; by default negated for CLIP (as TRIM's released code and CDPruner read it)
            and as it is for SigLIP. Measure it for your encoder where it matters.
        mean, std: of the pixels it was trained on, RGB in 0 to 1; by default its kind's published ones.

    Raises:
        ConfigError: it is neither kind, or half of one.
    """

    name: ClassVar[str] = "external"
    summary: ClassVar[str] = "a CLIP or SigLIP of your choice, which looks at the pixels itself"
    published: ClassVar[dict[str, Published]] = {"clip": _CLIP, "siglip": _SIGLIP}
    model_types: ClassVar[tuple[str, ...]] = tuple(published)
    needs_views: ClassVar[bool] = True

    def __init__(
        self,
        encoder: nn.Module,
        tokenizer: Any,
        profile: EncoderProfile | None = None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        module: Any = encoder
        kind = getattr(getattr(module, "config", None), "model_type", "")
        if kind not in self.model_types or not hasattr(module, "text_model") or not hasattr(module, "vision_model"):
            raise ConfigError(
                f"{type(encoder).__name__} is not a CLIP or SigLIP model with both towers: pass such a checkpoint as scorer="
            )
        published = self.published[kind]
        self.profile = profile or EncoderProfile(sign=published.sign)
        self._encoder, self._vision = module.eval(), module.vision_model
        self._text = self.text_encoder(module, tokenizer)
        vision = module.config.vision_config
        self._patch, self._side = int(vision.patch_size), int(vision.image_size) // int(vision.patch_size)
        self._mean, self._std = mean or published.mean, std or published.std
        self._looks = Looks(self._grid, self._embed)

    @classmethod
    def load(cls, checkpoint: EncoderCheckpoint) -> Self:
        """Reads all of the encoder."""
        encoder, tokenizer = checkpoint.encoder(), checkpoint.tokenizer()
        return cls(encoder, tokenizer, checkpoint.profile, **checkpoint.pixel_statistics())

    def text_encoder(self, encoder: Any, tokenizer: Any) -> TextEncoder:
        """What embeds questions."""
        return (
            _siglip_text(encoder, tokenizer) if encoder.config.model_type == "siglip" else clip_text(encoder, tokenizer)
        )

    def patches(self, encoder: Any, pixels: Tensor) -> Tensor:
        """Embeddings ``[rows * columns, P]`` of the patches of one picture, in the space of the text's.

        Args:
            encoder: the encoder.
            pixels: ``[1, 3, rows * patch, columns * patch]``, normalized as it was trained, on its device and in its dtype.
        """
        return _patches(encoder, pixels)[0]

    def clear_cache(self) -> None:
        """Forget question and picture embeddings."""
        self._text.clear()
        self._looks.clear()

    def text_embeddings(self, queries: Sequence[str], *, truncate: bool = False) -> list[Tensor]:
        """One ``[P]`` embedding a question; see ``TextEncoder``.

        Raises:
            InputError: a question is empty.
        """
        return self._text(queries, truncate=truncate)

    @torch.no_grad()
    def similarity(
        self, images: Sequence[ImageTokens], queries: Sequence[str], *, normalize: bool = False, truncate: bool = False
    ) -> list[Tensor]:
        """See ``Scorer.similarity``. A token that looks nowhere (a newline) has the score of the one before it.

        Raises:
            InputError: a question is empty.
            ConfigError: an image comes without its views.
        """
        texts = self.text_embeddings(queries, truncate=truncate)
        seen = self._seen(images)
        return [self._scores(*each, normalize) for each in zip(images, seen, texts, strict=True)]

    def segment_embeddings(self, query: str) -> Tensor:
        """``[S, P]`` float32: one embedding for each piece of the question that is as long as the text tower takes.

        Raises:
            InputError: the question is empty.
        """
        return self._text.segments(query)

    @torch.no_grad()
    def segment_similarity(self, images: Sequence[ImageTokens], queries: Sequence[str]) -> list[Tensor]:
        """``[N]`` each: the mean of the tokens' cosines to the segments of the question; see ``similarity``."""
        return [
            torch.stack([self._scores(image, seen, text, True) for text in self.segment_embeddings(query)]).mean(dim=0)
            for image, seen, query in zip(images, self._seen(images), queries, strict=True)
        ]

    def _seen(self, images: Sequence[ImageTokens]) -> list[list[Tensor]]:
        """Patch embeddings of every view of every image."""
        if not all(image.views for image in images):
            raise ConfigError("an external scorer looks at pixels and this image came without any")
        patches = iter(self._looks([(image.key, view) for image in images for view in image.views]))
        return [[next(patches) for _ in image.views] for image in images]

    def _scores(self, image: ImageTokens, seen: Sequence[Tensor], text: Tensor, normalize: bool) -> Tensor:
        scores = torch.full((len(image),), math.nan, device=text.device)
        for view, patches in zip(image.views, seen, strict=True):
            map_ = F.clip_relevance(patches[None], text[None].to(patches.device), normalize=normalize)[0]
            cells = map_.view(self._grid(view))
            means = box_means(cells, view.boxes, view.pixels.shape[1], view.pixels.shape[2])
            scores[view.tokens.to(scores.device, non_blocking=True)] = means.to(scores)
        return _filled(scores)

    def _grid(self, view: View) -> tuple[int, int]:
        return _grid(view.pixels.shape[1], view.pixels.shape[2], self._side)

    def _embed(self, pictures: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """``[V, rows * columns, P]`` of pictures, ``[3, H, W]`` each, that have one grid."""
        weight = next(self._vision.parameters())
        size = [n * self._patch for n in grid]
        mean, std = (
            torch.tensor(v).to(weight.device, non_blocking=True).view(3, 1, 1) for v in (self._mean, self._std)
        )
        ready = []
        for pixels in pictures:
            one = pixels.to(weight.device, torch.float32)[None]
            one = torch.nn.functional.interpolate(one, size, mode="bicubic", antialias=True, align_corners=False)
            ready.append(((one.clamp(0, 1) - mean) / std).to(weight.dtype))
        if type(self).patches is not ExternalScorer.patches:  # of another kind of encoder, one picture at a time
            return torch.stack([self.patches(self._encoder, one).float() for one in ready])
        return _patches(self._encoder, torch.cat(ready)).float()


def _patches(encoder: Any, pixels: Tensor) -> Tensor:
    """``[V, rows * columns, P]`` of ``[V, 3, rows * patch, columns * patch]``."""
    arguments = {"pixel_values": pixels, "interpolate_pos_encoding": True, "return_dict": True}
    if encoder.config.model_type == "siglip":
        hidden = encoder.vision_model(**arguments).last_hidden_state
        return torch.stack([encoder.vision_model.head(each[:, None]) for each in hidden])
    hidden = encoder.vision_model(**arguments, output_hidden_states=True).hidden_states[-2][:, 1:]
    norm = encoder.vision_model.post_layernorm
    return F.patch_embeddings(hidden, norm.weight, norm.bias, encoder.visual_projection.weight, norm.eps)


def _siglip_text(siglip: Any, tokenizer: Any) -> TextEncoder:
    """SigLIP's text tower: no start token, always filled to its full length."""
    model, config = siglip.text_model.eval(), siglip.config.text_config
    pad = getattr(tokenizer, "pad_token_id", None)
    return TextEncoder(
        lambda ids: model(input_ids=ids).pooler_output,
        tokenizer,
        int(config.max_position_embeddings),
        lambda: next(model.parameters()).device,
        start=0,
        pad_id=pad if pad is not None else config.pad_token_id,
    )


def _grid(height: int, width: int, side: int) -> tuple[int, int]:
    """Rows and columns of about ``side * side`` patches in the picture's aspect ratio."""
    ratio = math.sqrt(height / width)
    return max(1, round(side * ratio)), max(1, round(side / ratio))


def _filled(scores: Tensor) -> Tensor:
    """NaN replaced by the value before it, at the start by the smallest."""
    known = ~scores.isnan()
    places = torch.arange(len(scores), device=scores.device)
    last = torch.where(known, places, -1).cummax(0).values
    smallest = torch.where(known, scores, torch.inf).amin()
    smallest = torch.where(smallest == torch.inf, 0.0, smallest)
    return torch.where(last >= 0, scores.index_select(0, last.clamp(min=0)), smallest)
