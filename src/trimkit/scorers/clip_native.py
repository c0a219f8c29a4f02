"""Relevance from the model's own CLIP tower: its patch features against the text tower they were trained with.

LLaVA ships only the vision half. The text tower, ``post_layernorm`` and ``visual_projection`` come from the public CLIP
checkpoint that the tower was taken from; the vision layers of that checkpoint are dropped after loading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from trimkit.core import functional as F
from trimkit.core.types import EncoderProfile, ImageTokens
from trimkit.errors import ConfigError
from trimkit.scorers._text import TextEncoder

__all__ = ["ClipNativeScorer", "clip_text"]


def clip_text(clip: Any, tokenizer: Any) -> TextEncoder:
    """CLIP's text tower and projection."""
    model, projection = clip.text_model.eval(), clip.text_projection.eval()
    return TextEncoder(
        lambda ids: projection(model(input_ids=ids).pooler_output),
        tokenizer,
        int(clip.config.text_config.max_position_embeddings),
        lambda: projection.weight.device,
    )


class ClipNativeScorer:
    """CLIP's text tower over the vision features that the model computes anyway.

    Args:
        clip: a ``CLIPModel`` (its vision layers are not used).
        tokenizer: its tokenizer.
        profile: sign, normalisation and temperature of this encoder.

    Raises:
        ConfigError: ``clip`` has no text tower or no projections.
    """

    def __init__(self, clip: nn.Module, tokenizer: Any, profile: EncoderProfile | None = None) -> None:
        for part in ("text_model", "text_projection", "visual_projection", "vision_model"):
            if not hasattr(clip, part):
                raise ConfigError(
                    f"{type(clip).__name__} has no {part}: pass scorer= a CLIP checkpoint with a text tower, "
                    "or use a method that does not read the text"
                )
        self.profile = profile or EncoderProfile()
        module: Any = clip
        self.text_model = module.text_model
        self._text = clip_text(module, tokenizer)
        self._post_layernorm = module.vision_model.post_layernorm
        self._visual_projection = module.visual_projection

    @property
    def feature_size(self) -> int:
        """Width of the patch features this scorer reads."""
        return int(self._post_layernorm.weight.shape[0])

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
        return [
            F.clip_relevance(
                self._patches(image).unsqueeze(0), text.to(image.features.device).unsqueeze(0), normalize=normalize
            )[0]
            for image, text in zip(images, texts, strict=True)
        ]

    def text_embeddings(self, queries: Sequence[str], *, truncate: bool = False) -> list[Tensor]:
        """One ``[P]`` embedding a question; see ``TextEncoder``.

        Raises:
            InputError: a question is empty.
        """
        return self._text(queries, truncate=truncate)

    def _patches(self, image: ImageTokens) -> Tensor:
        features = image.features if image.tower_columns is None else image.features[:, slice(*image.tower_columns)]
        if features.shape[-1] != self.feature_size:
            raise ConfigError(
                f"the scorer's CLIP has {self.feature_size}-wide patch features, the model's tower "
                f"{features.shape[-1]}-wide ones: pass the CLIP checkpoint that the tower was taken from"
            )
        norm = self._post_layernorm
        device = features.device
        return F.patch_embeddings(
            features.detach(),
            norm.weight.to(device),
            norm.bias.to(device),
            self._visual_projection.weight.to(device),
            norm.eps,
        )
