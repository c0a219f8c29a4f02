"""A vision-language checkpoint's language model as a checkpoint of its own, for an engine that runs text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimkit.errors import ConfigError, UnsupportedError
from trimkit.io.building import one_at_a_time
from trimkit.io.directories import built, new_directory
from trimkit.loading import load_model

__all__ = ["RAW_CHAT_TEMPLATE", "save_language_model"]

RAW_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}{%- endif -%}"
    "{%- endfor -%}"
)
"""A chat template that puts the parts of a message one behind the other: the encoder in front has rendered the real one."""


def save_language_model(model: str, directory: str | Path, *, dtype: str = "auto") -> Path:
    """Write the language model and the tokenizer of a checkpoint, with ``RAW_CHAT_TEMPLATE`` as its chat template.

    Args:
        model: ``demo``, a directory that ``save_pretrained`` wrote, or a hub id.
        directory: to write, new or empty; it appears whole or not at all.
        dtype: of the weights; one of ``trimkit.loading.DTYPES``.

    Returns:
        The directory.

    Raises:
        ConfigError: the directory is there already, or cannot be written.
        ModelError: there is no such checkpoint.
        UnsupportedError: its language model is not one that transformers has as a model of its own.
    """
    target = new_directory(directory, "a language model")
    loaded, processor = load_model(model, dtype=dtype)
    alone = _alone(loaded)
    tokenizer = getattr(processor, "tokenizer", processor)
    try:
        with built(target) as temporary:
            alone.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            (temporary / "chat_template.jinja").write_text(RAW_CHAT_TEMPLATE, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {str(directory)!r} ({error.strerror or error}): choose another place"
        ) from None
    return target


def _alone(model: Any) -> Any:
    """The causal language model that has the decoder and the output head of ``model``; no tensor is copied.

    Raises:
        UnsupportedError: there is none.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = model.config.get_text_config()
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    try:
        with one_at_a_time(), torch.device("meta"):
            auto: Any = AutoModelForCausalLM
            alone = auto.from_config(config)
    except (ValueError, KeyError):
        alone = None
    if alone is None or head is None or type(alone.base_model) is not type(decoder):
        raise UnsupportedError(
            f"the language model of {type(model).__name__} ({config.model_type}) is no causal language model of its own in "
            "transformers: serve the whole checkpoint"
        )
    setattr(alone, alone.base_model_prefix, decoder)
    alone.set_output_embeddings(head)
    if getattr(model, "generation_config", None) is not None:
        alone.generation_config = model.generation_config
    return alone
