"""In training the prompt holds the answers: they take no part in the scoring, unless that is asked for by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trimkit
from tests import tiny
from tests.unit.test_query import CHATML, IMAGE, LLAVA, _ids, _Processor
from trimkit.demo import load_demo
from trimkit.pipeline.query_reader import QueryReader
from trimkit.pipeline.training_queries import ConversationReader, without_answers

ONE = "<s>USER: §§\nWhere is it? ASSISTANT: left</s>"
TWO = "<s>USER: §§\nFirst? ASSISTANT: yes</s>USER: And second? ASSISTANT: no</s>"
CHAT = (
    "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n§§One?<|im_end|>\n<|im_start|>assistant\nA.<|im_end|>\n"
    "<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\nB.<|im_end|>\n"
)


def _labels(ids: torch.Tensor, learnt: str, text: str) -> torch.Tensor:
    labels = torch.full_like(ids, -100)
    at = text.index(learnt)
    labels[at : at + len(learnt)] = ids[at : at + len(learnt)]
    return labels


@pytest.mark.parametrize(
    ("template", "prompt", "question", "conversation"),
    [
        (LLAVA, ONE, "Where is it?", "Where is it? left"),
        (LLAVA, TWO, "And second?", "First? yes And second? no"),
        (LLAVA, "<pad><pad>" + ONE, "Where is it?", "Where is it? left"),
        (LLAVA, ONE + "<pad><pad>", "Where is it?", "Where is it? left"),
        (CHATML, CHAT, "Two?", "One? assistant A. Two? assistant B."),
        (None, ONE, "Where is it?", "Where is it? left"),
        (None, TWO, "And second?", "First? yes And second? no"),
    ],
)
def test_marks_keep_answers_out(template: str | None, prompt: str, question: str, conversation: str) -> None:
    ids = _ids(prompt)
    reader = QueryReader(_Processor(template))
    for labels in (None, ids.masked_fill(ids == IMAGE, -100)):  # all is learnt, as some collators have it
        shown = without_answers(reader, ids[None], None if labels is None else labels[None], IMAGE)
        assert torch.equal(shown[0], ids)
        assert reader.read(shown[0], IMAGE) == question
    assert ConversationReader(_Processor(template)).read(ids, IMAGE) == conversation


def test_where_nothing_marks_a_turn_the_labels_do() -> None:
    text = "§§answer en what is it?\na fox"
    reader, ids = QueryReader(_Processor(None)), _ids(text)
    assert reader.read(ids, IMAGE).endswith("a fox"), "the marks tell it: the test proves nothing"
    shown = without_answers(reader, ids[None], _labels(ids, "a fox", text)[None], IMAGE)
    assert reader.read(shown[0], IMAGE) == "answer en what is it?"
    with pytest.raises(trimkit.InputError, match="cannot be told apart"):
        without_answers(reader, ids[None], ids.masked_fill(ids == IMAGE, -100)[None], IMAGE)
    nothing_learnt = torch.full_like(ids, -100)
    assert torch.equal(without_answers(reader, ids[None], nothing_learnt[None], IMAGE)[0], ids)


def test_a_prompt_that_is_cut_within_the_question_is_read_as_far_as_it_goes() -> None:
    text = "<s>USER: §§\nWhere? ASSISTANT: left</s>USER: And how ma"
    reader, ids = QueryReader(_Processor(LLAVA)), _ids(text)
    for labels in (ids.masked_fill(ids == IMAGE, -100), _labels(ids, " left</s>", text)):
        assert reader.read(without_answers(reader, ids[None], labels[None], IMAGE)[0], IMAGE) == "And how ma"


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_demo()


def _batch(processor: Any, side: str) -> Any:
    from PIL import Image

    turns = [["How many dogs are there?", "two"], ["Where is the fox?", "left", "What does the sign say?", "stop"]]
    texts = []
    for said in turns:
        talk = [
            {"role": ("user", "assistant")[i % 2], "content": [{"type": "text", "text": text}]}
            for i, text in enumerate(said)
        ]
        talk[0]["content"].insert(0, {"type": "image"})
        texts.append(processor.apply_chat_template(talk, tokenize=False) + processor.tokenizer.eos_token)
    pictures = [Image.new("RGB", (336, 336), colour) for colour in ("red", "blue")]
    return processor(images=pictures, text=texts, padding=True, padding_side=side, return_tensors="pt")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("policy", ["question", "conversation-with-answers"])
def test_forward_reads_questions_of_whole_conversations(demo: Any, side: str, policy: str) -> None:
    model, processor = demo
    batch = _batch(processor, side)
    assert (batch["attention_mask"][0, -1] == 0) == (side == "right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with trimkit.reduce(model, processor, query_from=policy) as trim, torch.no_grad():
        model(**batch, labels=labels)
    read = [image.query for image in trim.report.images]
    if policy == "question":
        assert read == ["How many dogs are there?", "What does the sign say?"]
    else:
        assert read == ["How many dogs are there? two", "Where is the fox? left What does the sign say? stop"]


def test_answers_do_not_change_what_is_kept(demo: Any) -> None:
    model, processor = demo
    batch = _batch(processor, "right")
    kept = {}
    for name, other in (("as it is", None), ("another answer", " three")):
        ids = batch["input_ids"].clone()
        if other is not None:
            (two,) = (ids[0] == processor.tokenizer(" two", add_special_tokens=False)["input_ids"][0]).nonzero()
            ids[0, two] = processor.tokenizer(other, add_special_tokens=False)["input_ids"][0]
        for source in ("question", "conversation-with-answers"):
            with trimkit.reduce(model, processor, query_from=source, budget=40) as trim, torch.no_grad():
                model(**{**batch, "input_ids": ids}, labels=ids)
            kept[name, source] = trim.report.images[0].scores
    assert torch.equal(kept["as it is", "question"], kept["another answer", "question"])
    leaking = [kept[name, "conversation-with-answers"] for name in ("as it is", "another answer")]
    assert not torch.equal(*leaking)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(trimkit.ConfigError, match="query_from='answers' is not known: choose one of question"):
        trimkit.reduce(tiny.llava(), query_from="answers")  # type: ignore[arg-type]


class TestWithoutLabels:
    """A fused loss keeps its labels to itself: marks alone can tell the question."""

    def test_a_prompt_that_marks_no_turns_is_refused_in_training(self, model: Any) -> None:
        batch = tiny.llava_batch([1])
        processor = _Processor(None)
        with trimkit.reduce(model, processor, method="trim", budget=5, scorer=tiny.ToyScorer()):
            with torch.no_grad():
                model.model(**batch)
            model.train()
            with pytest.raises(trimkit.InputError, match="pass query="):
                model.model(**batch)
            model.model(**batch, query="what")
