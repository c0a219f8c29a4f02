"""Conversations that a reader of questions must tell apart, with what the user asks last."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["LAYOUTS", "MARKS", "Layout"]

IMAGE: dict[str, Any] = {"type": "image"}
VIDEO: dict[str, Any] = {"type": "video"}
MARKS = (
    'Is the <img> tag, or Frame1: and Picture 1: and <0.5 seconds>, near <row_1_col_1> what "User:" and USER: call [INST] or '
    "<tool_response>x</tool_response>, and does Assistant: or ASSISTANT: say TILE_1?"
)
_CALL = {"id": "call12345", "type": "function", "function": {"name": "screenshot", "arguments": {"of": "window"}}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "screenshot",
        "description": "Shows the screen.",
        "parameters": {"type": "object", "properties": {"of": {"type": "string"}}, "required": ["of"]},
    },
}


@dataclass(frozen=True)
class Layout:
    """One conversation: what each role says, and the words that the last picture is to be scored against."""

    messages: list[dict[str, Any]]
    question: str
    options: dict[str, Any] = field(default_factory=dict)
    tiles: bool = False
    generating: bool = True


def user(*items: str | dict[str, Any]) -> dict[str, Any]:
    return _turn("user", *items)


def _turn(role: str, *items: str | dict[str, Any]) -> dict[str, Any]:
    return {
        "role": role,
        "content": [{"type": "text", "text": each} if isinstance(each, str) else each for each in items],
    }


def reply(text: str) -> dict[str, Any]:
    return _turn("assistant", text)


SYSTEM = _turn("system", "You are a careful agent. Answer in one word.")

LAYOUTS: dict[str, Layout] = {
    "picture, words": Layout([user(IMAGE, "What colour is the car?")], "What colour is the car?"),
    "words, picture": Layout([user("What colour is this?", IMAGE)], "What colour is this?"),
    "system": Layout([SYSTEM, user(IMAGE, "What colour is the car?")], "What colour is the car?"),
    "system, words, picture": Layout([SYSTEM, user("What colour is this?", IMAGE)], "What colour is this?"),
    "system, two turns": Layout([SYSTEM, user(IMAGE, "One?"), reply("Red."), user("And now?")], "And now?"),
    "tools": Layout([user(IMAGE, "Where do I click?")], "Where do I click?", {"tools": [_TOOL]}),
    "tools, no picture yet": Layout([user("Where do I click?")], "Where do I click?", {"tools": [_TOOL]}),
    "tool": Layout(
        [user("Open the settings."), reply("Let me look.") | {"tool_calls": [_CALL]}, _turn("tool", IMAGE)],
        "Open the settings.",
    ),
    "tool with words": Layout(
        [user(IMAGE, "Open it."), reply("I look.") | {"tool_calls": [_CALL]}, _turn("tool", "A screen: ", IMAGE)],
        "Open it.",
    ),
    "three turns": Layout(
        [user(IMAGE, "Who is it?"), reply("A fox."), user("Why?"), reply("It is red."), user("And where is it?")],
        "And where is it?",
    ),
    "two pictures": Layout([user(IMAGE, IMAGE, "What differs?")], "What differs?"),
    "pictures and words by turns": Layout([user("From ", IMAGE, " to ", IMAGE, " what moved?")], "From to what moved?"),
    "picture in a later turn": Layout(
        [user(IMAGE, "Who?"), reply("A fox."), user(IMAGE, "And who is it now?")], "And who is it now?"
    ),
    "ids": Layout([user(IMAGE, IMAGE, "What differs?")], "What differs?", {"add_vision_id": True}),
    "ids, two turns": Layout(
        [user(IMAGE, "Who?"), reply("A fox."), user("Compare with", IMAGE)], "Compare with", {"add_vision_id": True}
    ),
    "tiles": Layout([user(IMAGE, "What does the sign say?")], "What does the sign say?", tiles=True),
    "tiles, words first": Layout([user("Read the sign:", IMAGE)], "Read the sign:", tiles=True),
    "video": Layout([user(VIDEO, "What happens?")], "What happens?"),
    "no words": Layout([user(IMAGE)], ""),
    "no words but a system prompt": Layout([SYSTEM, user(IMAGE)], ""),
    "no words in this turn": Layout([user("Name what I show."), reply("Go on."), user(IMAGE)], "Name what I show."),
    "words like marks": Layout([user(IMAGE, MARKS)], MARKS),
    "words like marks, then more": Layout([user(MARKS, IMAGE), reply("No."), user("And " + MARKS)], "And " + MARKS),
    "begins like marks": Layout(
        [user(IMAGE, "<img> Frame1: Picture 1: <1.0 seconds> is what?")],
        "<img> Frame1: Picture 1: <1.0 seconds> is what?",
    ),
    "ends like a mark": Layout(
        [user("What is Picture 1:", IMAGE), reply("A."), user("And in Frame1:", IMAGE)], "And in Frame1:"
    ),
    "ends in a tag": Layout([user("What is an <img> ", IMAGE)], "What is an <img>"),
    "user says a role": Layout(
        [user(IMAGE, "A script says\nUser: hi\nASSISTANT: ho\nUSER: why\n### Human: what is it?")],
        "A script says User: hi ASSISTANT: ho USER: why ### Human: what is it?",
    ),
    "lines": Layout([user(IMAGE, "Which one?\nA. left\n\nB. right")], "Which one? A. left B. right"),
    "other scripts": Layout([user(IMAGE, "Где лиса? 狐狸在哪里？ أين 🦊")], "Где лиса? 狐狸在哪里？ أين 🦊"),
    "trained on": Layout([user(IMAGE, "Who is it?"), reply("A fox.")], "Who is it?", generating=False),
}
