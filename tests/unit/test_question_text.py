"""What is a question and what is not, case by case: roles in a user's words, tools, system prompts, text nobody can encode."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trimkit
from tests.chat.layouts import IMAGE as PICTURE
from tests.chat.layouts import SYSTEM, Layout, reply, user
from tests.chat.tokens import image_token_id, prompt_ids, tokenizer_of
from tests.unit.test_query import IMAGE, LLAVA, Letters, _ids, _Processor
from trimkit.demo import load_demo
from trimkit.pipeline.query_reader import QueryReader
from trimkit.pipeline.training_queries import without_answers

_CALL = {"id": "call12345", "type": "function", "function": {"name": "screenshot", "arguments": {}}}


def _read(name: str, *messages: dict[str, Any], **options: Any) -> list[str]:
    ids = prompt_ids(name, Layout(list(messages), "", options))
    reader, token = QueryReader(tokenizer_of(name)), image_token_id(name)
    turns = reader.turns(ids, token)
    assert reader.read(ids, token) == next(filter(None, reversed(turns)), "")
    return turns


@pytest.mark.parametrize("name", ["qwen3-vl", "mistral-3", "llama-3.2-vision", "gemma-3", "internvl3", "llava-1.5"])
def test_every_turn_in_order(name: str) -> None:
    talk = [user(PICTURE, "Who?"), reply("A fox."), user(PICTURE), reply("A dog."), user("User: where?")]
    assert _read(name, *talk) == ["Who?", "", "User: where?"]
    ids, token = prompt_ids(name, Layout(talk, "")), image_token_id(name)
    at = [i for i in (ids == token).nonzero().squeeze(1).tolist() if ids[i - 1] != token]
    reader = QueryReader(tokenizer_of(name))
    assert [reader.turn_at(ids, token, column) for column in (at[0], at[-1])] == [0, 1]


def test_several_answers_of_tools_are_no_turn_of_the_user() -> None:
    tool = {"role": "tool", "content": [{"type": "text", "text": "Done."}]}
    screen = {"role": "tool", "content": [{"type": "text", "text": "Screen: "}, PICTURE]}
    calls = reply("") | {"tool_calls": [_CALL, _CALL]}
    assert _read("qwen3-vl", user("Open it."), calls, tool, screen) == ["Open it."]
    assert _read("qwen3-vl", user("Open it."), calls, tool, screen, reply("It is open."), user("Close it.")) == [
        "Open it.", "Close it."
    ]  # fmt: skip


def test_a_tool_answer_by_hand() -> None:
    """As agents write it where the template has no role for tools."""
    by_hand = user("<tool_response>\n", PICTURE, "\n</tool_response>")
    assert _read("qwen2.5-vl", user("Open it."), reply("I look."), by_hand) == ["Open it."]
    about = user(PICTURE, "What is <tool_response> in the picture?")
    assert _read("qwen2.5-vl", about) == ["What is <tool_response> in the picture?"]


@pytest.mark.parametrize("name", ["gemma-3", "pixtral"])
def test_a_system_prompt_inside_the_users_turn(name: str) -> None:
    """An empty line is all that parts it from the user's words; before a picture it is known by it."""
    paragraphs = "It has two lines.\n\nWhich is longer?"
    assert _read(name, user(PICTURE, paragraphs)) == [" ".join(paragraphs.split())]
    assert _read(name, SYSTEM, user(PICTURE, paragraphs)) == [" ".join(paragraphs.split())]
    assert _read(name, SYSTEM, user("Look here:", PICTURE, "Who is it?")) == ["Look here: Who is it?"]
    assert _read(name, user("Look here:", PICTURE, "Who is it?")) == ["Look here: Who is it?"]
    assert _read(name, SYSTEM, user("Who is it?", PICTURE)) == ["Who is it?"]
    # Not to be told apart: what stands before the first empty line is taken for a system prompt.
    assert _read(name, user(paragraphs, PICTURE)) == ["Which is longer?"]


def test_words_that_a_template_appends() -> None:
    assert _read("glm-4.1v", user(PICTURE, "Who is it?"), enable_thinking=False) == ["Who is it?"]


@pytest.mark.parametrize(
    ("template", "prompt", "question"),
    [
        (LLAVA, "USER: §\nWhat do USER: and ASSISTANT: mean? ASSISTANT:", "What do USER: and ASSISTANT: mean?"),
        (LLAVA, "USER: §\nIn\nASSISTANT: hi\nUSER: bye\nwho? ASSISTANT:", "In ASSISTANT: hi USER: bye who?"),
        (LLAVA, "USER: §\nOne? ASSISTANT: A.\nUSER: Two?\nASSISTANT:", "Two?"),
        (None, "USER: §\nWhat does ASSISTANT: or USER: mean?\nASSISTANT:", "What does ASSISTANT: or USER: mean?"),
        (None, "USER: § What does User: mean? ASSISTANT:", "What does User: mean?"),
        (None, "§What does User: mean?\n", "What does User: mean?"),
        (None, "§What does Assistant: mean?\n", "What does Assistant: mean?"),
        (None, "A chat. USER: §\nOne? ASSISTANT: A.</s>USER: Two? ASSISTANT:", "Two?"),
        (None, "[INST] §\nIs <img> a tag? [/INST]", "Is <img> a tag?"),
        (None, "<|im_start|>user\n<|vision_start|>§§<|vision_end|>Is User: there?<|im_end|>\n<|im_start|>assistant\n",
         "Is User: there?"),
        (None, "### Human: §\nWho? ### Assistant:", "Who?"),
    ],
)  # fmt: skip
def test_prompts_by_hand(template: str | None, prompt: str, question: str) -> None:
    assert QueryReader(_Processor(template)).read(_ids(prompt), IMAGE).rstrip("# ") == question


@pytest.mark.parametrize("template", [LLAVA, None])
def test_what_no_tokenizer_takes(template: str | None) -> None:
    """Halves of surrogate pairs, ids outside the vocabulary, and letters that the reader uses itself."""
    ids = _ids("USER: §\nWho \ud83e\udd8a is \udc00? \uf8ff\U000f0001 ASSISTANT:")
    ids = torch.cat([ids[:10], torch.tensor([-5, 2**40]), ids[10:]])
    said = QueryReader(_Processor(template)).read(ids, IMAGE)
    said.encode()
    assert said == "Who 🦊 is \ufffd? \ufffd\ufffd"


def test_bytes_that_are_no_text() -> None:
    ids = prompt_ids("qwen2.5-vl", Layout([user(PICTURE, "Wer ist größer?")], ""))
    broken = ids[torch.arange(len(ids)) != len(ids) - 20]
    said = QueryReader(tokenizer_of("qwen2.5-vl")).read(broken, image_token_id("qwen2.5-vl"))
    said.encode()


def test_a_question_of_the_caller_with_half_a_letter() -> None:
    model, processor = load_demo()
    from tests.unit.test_silent_pictures import PICTURE_ALONE, _inputs

    with trimkit.reduce(model, processor) as trim:
        model.generate(**_inputs(processor, PICTURE_ALONE), max_new_tokens=1, query="the fox \ud800")
        assert trim.report.images[0].query == "the fox \ufffd"


def test_a_prompt_before_its_placeholders_are_put_in() -> None:
    """As a serving engine has it."""
    for name in ("gemma-3", "qwen2.5-vl", "llava-onevision", "llama-4"):
        text = tokenizer_of(name).apply_chat_template(
            [user(PICTURE, "Who is it?")], tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor(tokenizer_of(name)(text, add_special_tokens=False)["input_ids"])
        assert QueryReader(tokenizer_of(name)).read(ids, image_token_id(name)) == "Who is it?"


def test_a_row_without_pictures_needs_no_question() -> None:
    """In training, a text that nobody marks stands beside rows with pictures."""
    reader = QueryReader(Letters())
    rows = torch.nn.utils.rnn.pad_sequence([_ids("USER: § Who? ASSISTANT: a fox"), _ids("a text to learn")], True)
    shown = without_answers(reader, rows, rows.clone(), IMAGE, {0})
    assert torch.equal(shown, rows)
    with pytest.raises(trimkit.InputError, match="cannot be told apart"):
        without_answers(reader, rows, rows.clone(), IMAGE)
