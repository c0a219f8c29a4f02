"""Several attachments of one model that look at the same pictures: encoded once, with what any of them needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trimkit.cache import FeatureCache
from trimkit.integrations import _media
from trimkit.integrations._attachment import Attachment
from trimkit.models import ModelInputs

__all__ = ["share_features"]


def share_features(attachments: Sequence[Attachment], images: int) -> Callable[[ModelInputs], None]:
    """Give all attachments one cache of image features.

    Args:
        attachments: of one model, at least one.
        images: how many images are held.

    Returns:
        What encodes the images of a call into the cache, with the signals of all methods; those of the call before go. It is
        to be called without gradients, as the cache holds none.
    """
    cache = FeatureCache(images)
    signals = frozenset[str]().union(*(each.method.signals for each in attachments if not each.method.keeps_all))
    for each in attachments:
        each._pipeline.cache = cache
    model, family = attachments[0].model, attachments[0]._pipeline.family

    def encode(inputs: ModelInputs) -> None:
        cache.clear()
        for medium in _media.given_media(family, model, inputs):
            _media.encode(medium, model, medium.encoder_arguments(model, inputs), cache, signals)

    return encode
