"""The question is read back from the prompt's ids, whatever the format around it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trimkit
from trimkit.pipeline.query_reader import QueryReader

IMAGE = 900
LLAVA = "{% for m in messages %}{{ m['role'].upper() + ': ' + m['content'][0]['text'] + ' ' }}{% endfor %}ASSISTANT:"
CHATML = (
    "<|im_start|>system\nYou help.<|im_end|>\n{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'][0]['text'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


class Letters:
    """Characters as ids; enough of a tokenizer to be read with."""

    all_special_tokens = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|vision_start|>")
    bos_token = "<s>"
    chat_template = None

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert not skip_special_tokens
        return "".join(map(chr, ids))


class _Processor:
    def __init__(self, template: str | None) -> None:
        self.tokenizer = Letters()
        self.chat_template = template

    def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool) -> str:
        from jinja2 import Template

        assert self.chat_template is not None
        return Template(self.chat_template).render(messages=messages)


def _ids(text: str) -> torch.Tensor:
    return torch.tensor([IMAGE if c == "§" else ord(c) for c in text])


@pytest.mark.parametrize(
    ("template", "prompt", "question"),
    [
        (LLAVA, "<s>USER: §§§\nWhere is it? ASSISTANT:", "Where is it?"),
        (LLAVA, "<s>USER: Where is\nit? §§ ASSISTANT:", "Where is it?"),
        (LLAVA, "<pad><pad><s>USER: §\nWhat? ASSISTANT: a cat</s>", "What?"),
        (LLAVA, "USER: §\nFirst? ASSISTANT: yes USER: And second? ASSISTANT:", "And second?"),
        (LLAVA, "§\nno header at all", "no header at all"),
        (LLAVA, "USER: § ASSISTANT:", ""),
        (CHATML, "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n<|vision_start|>§§Where?<|im_end|>\n"
                 "<|im_start|>assistant\n", "Where?"),
        (CHATML, "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nA.<|im_end|>\n<|im_start|>user\n§Two?"
                 "<|im_end|>\n<|im_start|>assistant\n", "Two?"),
        (None, "<s>USER: §§\nWhere is it? ASSISTANT:", "Where is it?"),
        (None, "<s>[INST] §§\nWhere is it? [/INST]", "Where is it?"),
        (None, "just § words", "just words"),
    ],
)  # fmt: skip
def test_last_user_turn(template: str | None, prompt: str, question: str) -> None:
    assert QueryReader(_Processor(template)).read(_ids(prompt), IMAGE) == question


@pytest.mark.parametrize(
    "marks",
    [
        "<fake_token_around_image><row_1_col_1>§<fake_token_around_image><row_1_col_2>§\n\n<global-img>§",  # Idefics 3
        "<|START_OF_IMG|>TILE_1§TILE_2§TILE_GLOBAL§<|END_OF_IMG|>",  # Aya Vision
        "<|image_start|><|img_row_1_col_1|>§<|img_row_1_col_2|>§<|img_thumbnail|>§<|image_end|>",  # LFM2-VL
        "§§[IMG_BREAK]§§[IMG_END]",  # Pixtral
        "<img>§§</img>",  # InternVL
        "<start_of_image>§§<end_of_image>",  # Gemma 3
    ],
)
def test_marks_of_tiles_are_no_part_of_the_question(marks: str) -> None:
    for template in (LLAVA, None):
        reader = QueryReader(_Processor(template))
        assert reader.read(_ids(f"USER: {marks}What colour is the car? ASSISTANT:"), IMAGE) == "What colour is the car?"
        assert reader.read(_ids(f"USER: {marks} ASSISTANT:"), IMAGE) == ""


def test_an_image_processor_alone_cannot_read() -> None:
    with pytest.raises(trimkit.InputError, match="cannot decode"):
        QueryReader(object())
