"""What a method may ask for beside features, by name: a kind, and for kinds of the vision tower a layer where it is another one
than that which gives the features (``received@9``).
"""

from __future__ import annotations

from typing import NamedTuple

from trimkit.errors import ConfigError

__all__ = ["OF_LAYERS", "OF_LLM", "OF_TOWER", "SIGNALS", "SignalName", "is_per_token", "parse_signal"]

SIGNALS: dict[str, str] = {
    "cls_attention": "[N] float32, what the class token attends to at each patch, mean over heads",
    "cls_attention_wide": "[N] float32, the same of one head as wide as the tower (scale width ** -0.5)",
    "keys": "[N, D] attention keys of the patches (with bias, not scaled), heads side by side",
    "keys_mean": "[N, D / heads] the same, mean over heads",
    "received": "[N] float32, attention that each patch receives, mean over heads and all queries (the class token's, too)",
    "cls_state": "[D] the class token's own state beside the features",
    "projected": "[N, H] the tokens behind the projector",
    "words": "[M, H] input embeddings, in the language model, of the tokens of Method.words(question)",
    "alive": "[N] bool, patches that the vision tower was run to its end on (a method with a TowerPlan)",
    "clip_patches": "[N, P] float32, the patches in the space of the scorer's text embeddings",
    "clip_text": "[S, P] float32, the question there, an embedding for each segment that the text tower's length allows",
    "llm_keys": "[N, K] keys of the image's tokens in the language model's layer that ranks, rotated, heads side by side",
    "llm_states": "[N, H] what that layer gives at the image's tokens, through the language model's last norm",
    "llm_places": "[N] int64, where in the prompt they stand, padding not counted",
    "llm_text_keys": "[M, K] as llm_keys, of the prompt's text behind the image",
    "llm_text_states": "[M, H] as llm_states, of that text",
    "llm_text_places": "[M] int64, as llm_places, of that text",
}
"""Every kind, with its shape. Rows are an image's N tokens, but for what is of the image, the question or the text as a whole.
Those that begin with ``llm`` are for methods of ``stage`` ``llm``, the others for those of ``tower``. Attention is a softmax
over the class token and the patches."""

OF_LAYERS = frozenset({"cls_attention", "cls_attention_wide", "keys", "keys_mean", "received"})
"""Kinds that a layer of the vision tower gives."""
OF_TOWER = OF_LAYERS | {"cls_state"}
"""Kinds that a tower with a class token gives."""
OF_LLM = frozenset(name for name in SIGNALS if name.startswith("llm"))
"""Kinds that a layer of the language model gives."""
_WHOLE = frozenset({"cls_state", "words", "clip_text", "llm_text_keys", "llm_text_states", "llm_text_places"})


class SignalName(NamedTuple):
    """A parsed name.

    ``layer`` counts from 1, or from the end with -1, or is a share of the tower's depth, such as 0.375; None is the layer that
    gives the features.
    """

    kind: str
    layer: int | float | None


def parse_signal(name: str) -> SignalName:
    """Read ``kind`` or ``kind@layer``, the layer a number or a share of the tower's depth.

    Raises:
        ConfigError: an unknown kind, a layer where there is none, or one that is no number.
    """
    kind, at, number = name.partition("@")
    if kind not in SIGNALS:
        raise ConfigError(f"signal {name!r} is not known: there are {', '.join(SIGNALS)}")
    if not at:
        return SignalName(kind, None)
    layer: int | float = int(number) if number.lstrip("-").isdigit() else 0
    if number.startswith("0.") and number[2:].isdigit():
        layer = float(number)
    if kind not in OF_LAYERS or layer == 0:
        kinds = ", ".join(sorted(OF_LAYERS))
        raise ConfigError(
            f"signal {name!r}: a layer is a number such as 9 or -1 or a share such as 0.375, and only {kinds} have one"
        )
    return SignalName(kind, layer)


def is_per_token(name: str) -> bool:
    """Whether the signal has a row for each token of the image."""
    return name.partition("@")[0] not in _WHOLE
