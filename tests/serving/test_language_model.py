"""A checkpoint's language model alone: the same tokens from the same embeddings, and a template that adds nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimkit.cli import run
from trimkit.demo import load_demo
from trimkit.errors import ConfigError
from trimkit.serving.encode.language_model import save_language_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model("demo", tmp_path_factory.mktemp("lm") / "alone")


def test_it_answers_embeddings_as_the_whole_model_does(folder: Path) -> None:
    model, processor = load_demo()
    alone = AutoModelForCausalLM.from_pretrained(folder)
    ids = processor.tokenizer("USER: Is there a fox? ASSISTANT:", return_tensors="pt")["input_ids"]
    steps: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(ids)
        assert torch.equal(alone(inputs_embeds=embeddings).logits, model(inputs_embeds=embeddings).logits)
        assert alone.generate(ids, **steps).tolist() == model.generate(ids, **steps).tolist()
    assert not [name for name, _ in alone.named_parameters() if "vision" in name]


def test_its_template_passes_text_through(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = [{"type": "text", "text": "a  \n"}, {"type": "text", "text": " b{{ x }}"}]
    for content in (parts, "a  \n b{{ x }}"):
        text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        assert text == "a  \n b{{ x }}"


def test_what_is_there_is_not_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="there already"):
        save_language_model("demo", folder)
    assert run(["language-model", "demo", "-o", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
