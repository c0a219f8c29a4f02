"""Relevance from the model's own CLIP tower: its patch features against the text tower they were trained with.

LLaVA ships only the vision half. The text tower, ``post_layernorm`` and ``visual_projection`` come from the public CLIP
checkpoint that the tower was taken from; the vision layers of that checkpoint are not read.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from trimkit.core import functional as F
from trimkit.core.transfer import one_by_one, stacked
from trimkit.core.types import EncoderProfile, ImageTokens
from trimkit.errors import ConfigError
from trimkit.scorers._text import TextEncoder
from trimkit.scorers.base import EncoderScorer
from trimkit.scorers.checkpoint import EncoderCheckpoint

__all__ = ["ClipNativeScorer", "clip_text"]

_SHAPE = ("hidden_size", "num_hidden_layers", "patch_size")


def clip_text(clip: Any, tokenizer: Any) -> TextEncoder:
    """CLIP's text tower and projection."""
    model, projection = clip.text_model.eval(), clip.text_projection.eval()
    return TextEncoder(
        lambda ids: projection(model(input_ids=ids).pooler_output),
        tokenizer,
        int(clip.config.text_config.max_position_embeddings),
        lambda: projection.weight.device,
        causal=True,
    )


class ClipNativeScorer(EncoderScorer):
    """CLIP's text tower over the vision features that the model computes anyway.

    Args:
        clip: a ``CLIPModel`` (its vision layers are not used).
        tokenizer: its tokenizer.
        profile: sign, normalisation and temperature of this encoder.

    Attributes:
        text_model, text_projection: from token ids to the embedding of a question.
        tokenizer: as given.
        max_length: token ids that the text tower takes at once.

    Raises:
        ConfigError: ``clip`` has no text tower or no projections.
    """

    name: ClassVar[str] = "clip-native"
    summary: ClassVar[str] = "CLIP's text half over the features of the model's own CLIP tower"
    model_types: ClassVar[tuple[str, ...]] = ("clip",)

    def __init__(self, clip: nn.Module, tokenizer: Any, profile: EncoderProfile | None = None) -> None:
        for part in ("text_model", "text_projection", "visual_projection", "vision_model"):
            if not hasattr(clip, part):
                raise ConfigError(
                    f"{type(clip).__name__} has no {part}: pass scorer= a CLIP checkpoint with a text tower, "
                    "or use a method that does not read the text"
                )
        self.profile = profile or EncoderProfile()
        module: Any = clip
        self.text_model, self.text_projection = module.text_model, module.text_projection
        self.tokenizer = tokenizer
        self.max_length = int(module.config.text_config.max_position_embeddings)
        self._text = clip_text(module, tokenizer)
        self._post_layernorm = module.vision_model.post_layernorm
        self._visual_projection = module.visual_projection

    @classmethod
    def fits(cls, config: Any, tower: Any) -> bool:
        """Whether the model's tower has the shape of this CLIP's own."""
        return all(getattr(config.vision_config, name, None) == getattr(tower, name, None) for name in _SHAPE)

    @classmethod
    def load(cls, checkpoint: EncoderCheckpoint) -> Self:
        """Reads the text tower, the projections and the last layer norm: less than a third of a CLIP-L."""
        config = copy.deepcopy(checkpoint.config)
        config.vision_config.num_hidden_layers = 0  # the model computes these features itself
        return cls(checkpoint.encoder(_text_half(), config), checkpoint.tokenizer(), checkpoint.profile)

    @property
    def feature_size(self) -> int:
        """Width of the patch features this scorer reads."""
        return int(self._post_layernorm.weight.shape[0])

    @property
    def post_layernorm(self) -> Any:
        """The layer norm between the patch features and ``visual_projection``."""
        return self._post_layernorm

    @property
    def visual_projection(self) -> Any:
        """From patch features to the space of question embeddings."""
        return self._visual_projection

    def clear_cache(self) -> None:
        """Forget question embeddings."""
        self._text.clear()

    def similarity(
        self, images: Sequence[ImageTokens], queries: Sequence[str], *, normalize: bool = False, truncate: bool = False
    ) -> list[Tensor]:
        """See ``Scorer.similarity``.

        Raises:
            InputError: a question is empty, or the features are not this tower's.
        """
        texts = self.text_embeddings(queries, truncate=truncate)
        groups: dict[object, list[int]] = {}
        for i, image in enumerate(images):
            alone = i if one_by_one(image.features.device) else -1
            groups.setdefault((alone, image.features.device, image.features.dtype, len(image)), []).append(i)
        found: dict[int, Tensor] = {}
        for rows in groups.values():
            patches = self._patches([images[i] for i in rows])
            text = stacked([texts[i] for i in rows]).to(patches.device)
            found.update(zip(rows, F.clip_relevance(patches, text, normalize=normalize).unbind(0), strict=True))
        return [found[i] for i in range(len(images))]

    def text_embeddings(self, queries: Sequence[str], *, truncate: bool = False) -> list[Tensor]:
        """One ``[P]`` embedding a question; see ``TextEncoder``.

        Raises:
            InputError: a question is empty.
        """
        return self._text(queries, truncate=truncate)

    def segment_similarity(self, images: Sequence[ImageTokens], queries: Sequence[str]) -> list[Tensor]:
        """``[N]`` each: the mean of the patches' cosines to the segments of the question.

        Raises:
            InputError: a question is empty.
        """
        if all(map(self.is_whole, queries)):
            return self.similarity(images, queries, normalize=True)
        segments = {query: self._text.segments(query) for query in dict.fromkeys(queries)}
        found = []
        for image, query in zip(images, queries, strict=True):
            patches = self._patches([image])
            texts = segments[query].to(patches)
            rows = [F.clip_relevance(patches, text[None], normalize=True)[0] for text in texts]
            found.append(torch.stack(rows).mean(dim=0))
        return found

    def is_whole(self, query: str) -> bool:
        """Whether the text tower takes a question in one piece."""
        return self._text.is_whole(query)

    def segment_embeddings(self, query: str) -> Tensor:
        """``[S, P]`` float32: one embedding for each piece of the question that is as long as the text tower takes.

        Raises:
            InputError: the question is empty.
        """
        return self._text.segments(query)

    def patch_embeddings(self, image: ImageTokens) -> Tensor:
        """``[N, P]`` the patches in the space of the text's embeddings.

        Raises:
            ConfigError: the features are not this tower's.
        """
        return self._patches([image])[0]

    def _patches(self, images: Sequence[ImageTokens]) -> Tensor:
        """``[B, N, P]`` patch embeddings of images of N tokens each."""
        read = [
            each.features if each.tower_columns is None else each.features[:, slice(*each.tower_columns)]
            for each in images
        ]
        for features in read:
            if features.shape[-1] != self.feature_size:
                raise ConfigError(
                    f"the scorer's CLIP has {self.feature_size}-wide patch features, the model's tower "
                    f"{features.shape[-1]}-wide ones: pass the CLIP checkpoint that the tower was taken from"
                )
        norm, device = self._post_layernorm, read[0].device
        return F.patch_embeddings(
            stacked(read).detach(),
            norm.weight.to(device),
            norm.bias.to(device),
            self._visual_projection.weight.to(device),
            norm.eps,
        )


def _text_half() -> type:
    """A ``CLIPModel`` that does not complain of vision layers which it has no place for."""
    import transformers

    base: Any = transformers  # its classes are typed only in part
    ignored = {"_keys_to_ignore_on_load_unexpected": [r"vision_model\.encoder\."], "__module__": __name__}
    return type("ClipTextHalf", (base.CLIPModel,), ignored)
