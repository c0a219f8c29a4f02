"""Several attachments of one model that look at the same pictures: encoded once, with what any of them needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trimkit.cache import FeatureCache
from trimkit.integrations import _media
from trimkit.integrations._attachment import Attachment
from trimkit.models import ModelInputs, family_of

__all__ = ["encoder_for"]


def encoder_for(attachments: Sequence[Attachment], cache: FeatureCache) -> Callable[[ModelInputs], None]:
    """What fills the cache of several attachments in one pass over the pictures.

    Args:
        attachments: of one model, at least one, made with ``cache_images=cache``.
        cache: theirs.

    Returns:
        What encodes the images of a call into the cache, with the signals of all methods; those of the call before go. It is
        to be called without gradients, as the cache holds none.
    """
    signals = frozenset[str]().union(*(each.method.signals for each in attachments if not each.method.keeps_all))
    model = attachments[0].model
    family = family_of(model)

    def encode(inputs: ModelInputs) -> None:
        cache.clear()
        for medium in _media.given_media(family, model, inputs):
            _media.encode(medium, model, medium.encoder_arguments(model, inputs), cache, signals)

    return encode
