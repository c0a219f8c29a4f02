"""A tokenizer of bytes with a format's special tokens, and a processor's work on text: enough to make a prompt's ids."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from tests.chat.formats import Format
from tests.chat.layouts import Layout
from tests.chat.more_formats import ALL

__all__ = ["image_token_id", "prompt_ids", "tokenizer_of"]


@cache
def tokenizer_of(name: str) -> Any:
    """The tokenizer of a format; it has the chat template too."""
    form = ALL[name]
    alphabet = sorted(ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)
    tokenizer.add_special_tokens({"additional_special_tokens": [form.token, *form.specials]})
    tokenizer.add_tokens(["<tool_response>", "</tool_response>"])  # no special tokens in Qwen's vocabularies, either
    tokenizer.chat_template = form.template
    return tokenizer


def image_token_id(name: str) -> int:
    """Of the placeholder that the language model sees."""
    return int(tokenizer_of(name).convert_tokens_to_ids(ALL[name].token))


def prompt_ids(name: str, layout: Layout) -> torch.Tensor:
    """``[L]`` ids of a conversation, as the model's processor makes them."""
    form, tokenizer = ALL[name], tokenizer_of(name)
    text = tokenizer.apply_chat_template(
        layout.messages, tokenize=False, add_generation_prompt=layout.generating, **layout.options
    )
    text = _with_pictures(form, text, layout)
    return torch.tensor(tokenizer(form.bos + text, add_special_tokens=False)["input_ids"])


def _with_pictures(form: Format, text: str, layout: Layout) -> str:
    picture = form.tiles if layout.tiles else form.picture
    items = [item for turn in layout.messages for item in turn["content"] if item["type"] != "text"]
    for number, item in enumerate(items):  # what a picture becomes may hold what stood for it
        before, found, after = text.partition(form.video if item["type"] == "video" else form.image)
        if not found:
            raise AssertionError("the template writes no placeholder")
        text = f"{before}\x00{number}\x00{after}"
    for number, item in enumerate(items):
        text = text.replace(f"\x00{number}\x00", form.film if item["type"] == "video" else picture)
    return text
