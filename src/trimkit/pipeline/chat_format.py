"""What a chat template writes around a user's words, learnt by rendering it around words that nobody else writes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trimkit.pipeline.folded_text import FoldedText, tool_lead
from trimkit.pipeline.prompt_text import SPECIAL, PromptCoder
from trimkit.pipeline.rendering import TOOL, Renderer
from trimkit.pipeline.turn_marks import TurnMarks, flexible, plain_mark, tool_answer

__all__ = ["ChatFormat", "learn_format"]

# Words that no template writes and none changes.
_SYSTEM, _USER, _REPLY, _LATER, _ANSWER, _TOOL = (
    "qzsystemqz",
    "qzuserqz",
    "qzreplyqz",
    "qzlaterqz",
    "qzanswerqz",
    "qztoolqz",
)


@dataclass(frozen=True)
class ChatFormat:
    """One template.

    Attributes:
        marks: where turns begin and end.
        folds: what it puts into a user's turn beside the user's words: a system prompt, the list of tools.
        endings: patterns of words that it may append to the user's, such as ``/nothink``.
        media: what it writes for one picture or video, in coded form, numbers included.
    """

    marks: TurnMarks
    folds: Sequence[FoldedText]
    endings: Sequence[str]
    media: Sequence[str]


def learn_format(processor: Any, tokenizer: Any, coder: PromptCoder) -> ChatFormat | None:
    """Learn the format of a processor's chat template; None where there is none, or it shows no marks."""
    render = Renderer(processor, tokenizer, coder)
    alone = render([("user", [_USER])])
    if alone is None:
        return None
    marks = _marks(render, coder, alone)
    if not (marks.heads or marks.ends or marks.words):
        return None
    rests = list(_variants(render, marks))
    endings = {flexible(after) for _, after in rests if after.strip()}
    media = {before: None for before, _ in rests if before.strip()}
    return ChatFormat(marks, list(_folds(render, marks)), sorted(endings), list(media))


def _marks(render: Renderer, coder: PromptCoder, alone: str) -> TurnMarks:
    """The marks, from a single turn and from a conversation."""
    first, after = alone.split(_USER)
    talk = render([("user", [_USER]), ("assistant", [_REPLY]), ("user", [_LATER])])
    befores, others, afters = [first], [after], [after]
    if talk is not None:
        _, to_reply, to_later, last = re.split(f"{_USER}|{_REPLY}|{_LATER}", talk)
        befores.append(to_later)
        others.append(to_reply)
        afters += [to_reply, last]
    still = render([("user", [_USER])], generating=False)
    afters += [still.split(_USER)[1]] if still is not None else []
    ends, words = _endings([text for text in afters if text.strip()])
    heads, later = _headers(befores, others)
    tools, tool_header = _tool_turns(render, coder, heads, ends)
    return TurnMarks(heads, later, ends, words, tools, tool_header if words else "", _space_before(befores[-1]))


def _headers(befores: Sequence[str], others: Sequence[str]) -> tuple[list[str], str]:
    """Patterns of the header of a first and of a later turn.

    The shortest ending from a special token on serves, if no other role's header ends so. Without one, the common words do:
    behind the special token that stands before them, at the prompt's start, or wherever the words stand.
    """
    core = _common_end(befores)
    for at in reversed([found.start() for found in re.finditer(f"[{SPECIAL}]", core)]):
        ending = "".join(core[at:].split())
        if not any("".join(other.split()).endswith(ending) for other in others):
            return [_word_end(core[at:])], _word_end(core[at:])
    words = re.split(f"[{SPECIAL}]", core)[-1].strip()
    if not words:
        unlike = [_word_end(_from_special(text)) for text in befores if text.strip()]
        return unlike[:1], unlike[-1] if unlike else ""
    loose = plain_mark(words)
    contexts = [_in_context(text, words, first=number == 0) for number, text in enumerate(befores)]
    return [f"(?:{'|'.join(contexts)})", loose], contexts[-1] if len(contexts) > 1 else loose


def _in_context(before: str, words: str, *, first: bool) -> str:
    """Pattern of a header in ordinary letters behind what the template writes before it."""
    rest = before.rstrip()[: -len(words)]
    if not rest.strip():
        return rf"\A[\s{SPECIAL}]*{flexible(words)}" if first else plain_mark(words)
    if re.search(rf"[{SPECIAL}]\s*$", rest):
        return rf"{rest.strip()[-1]}\s*{flexible(words)}"
    line = "\n" in rest[len(rest.rstrip()) :]
    return rf"(?:\A|(?<=[\n{SPECIAL}]))[^\S\n]*{flexible(words)}" if line else plain_mark(words)


def _from_special(text: str) -> str:
    """``text`` from its last special token on; all of it where there is none."""
    found = list(re.finditer(f"[{SPECIAL}]", text))
    return text[found[-1].start() :] if found else text


def _word_end(mark: str) -> str:
    """Pattern of a header; ``user`` and a line break are not found in ``username``."""
    pattern = flexible(mark.rstrip())
    spaced = mark.rstrip()[-1:].isalnum()
    return pattern + (r"(?!\w)\s*" if spaced else "")


def _endings(afters: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """Special tokens, and words, that end a user's turn."""
    ends = "".join(dict.fromkeys(text.strip()[0] for text in afters if re.match(f"[{SPECIAL}]", text.strip())))
    written = [re.split(f"[{SPECIAL}]", text)[0] for text in afters if not re.match(f"[{SPECIAL}]", text.strip())]
    if not written:
        return ends, []
    common = written[0]
    for text in written[1:]:
        common = common[: _common_start(common, text)]
    if not common.strip():  # no two alike: the first word of each
        return ends, [(plain_mark(text.split()[0]), "") for text in written]
    space = common[: len(common) - len(common.lstrip())]
    return ends, [(plain_mark(common), space)]


def _tool_turns(render: Renderer, coder: PromptCoder, heads: Sequence[str], ends: str) -> tuple[list[str], str]:
    """Patterns of a user turn that holds a tool's answer, and of the header of a tool's own turn.

    The first are as the template writes it, and as agents write it by hand.
    """
    found, header = [tool_answer(coder)], ""
    for caller in ("assistant", "caller"):
        text = render([("user", [_USER]), (caller, [_REPLY]), ("tool", [_TOOL])], generating=False)
        if text is None:
            continue
        before, after = text.split(_REPLY)[1].split(_TOOL)
        head = next(filter(None, (_last(pattern, before) for pattern in heads)), None)
        if head is None:
            header = plain_mark(before) if before.strip() else ""
        elif lead := before[head.end() :].strip():
            trail = re.split(f"[{ends}]", after)[0] if ends else after
            found.append(rf"\s*{flexible(lead)}[\s\S]*{flexible(trail.strip())}\s*")
        break
    return found, header


def _folds(render: Renderer, marks: TurnMarks) -> Iterator[FoldedText]:
    """What stands in a user's turn for a system prompt and for tools."""
    talk = [("system", [_SYSTEM]), ("user", [_USER]), ("assistant", [_REPLY]), ("user", [_LATER])]
    text = render(talk)
    for number, turn in enumerate(marks.turns(text) if text is not None else []):
        body = (text or "")[turn.body : turn.end]
        if _SYSTEM in body:
            lead, gap = body.split(_SYSTEM)
            gap = re.split(f"{_USER}|{_LATER}", gap)[0]
            yield FoldedText(lead, gap, last=number > 0)
    tools = render([("user", [_USER])], tools=[TOOL])
    for turn in marks.turns(tools) if tools is not None else []:
        lead = tool_lead(tools[turn.body : turn.end] if tools else "", TOOL["function"]["name"])  # type: ignore[index]
        if lead:
            yield FoldedText(lead, "", tools=True)


def _variants(render: Renderer, marks: TurnMarks) -> Iterator[tuple[str, str]]:
    """What the template writes before and after the words of a turn, for pictures, videos and options that it knows."""
    options: list[dict[str, Any]] = [{}, *({name: on} for name in render.switches for on in (True, False))]
    for option in options:
        for items in ([_USER], ["image", _USER], ["video", _USER]):
            text = render([("user", items)], **option)
            for turn in marks.turns(text)[:1] if text is not None else []:
                before, found, after = (text or "")[turn.body : turn.end].partition(_USER)
                if found:
                    yield (before if len(items) > 1 else "", after)


def _space_before(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _last(pattern: str, text: str) -> re.Match[str] | None:
    return next(reversed(list(re.finditer(pattern, text))), None)


def _common_start(one: str, other: str) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


def _common_end(texts: Sequence[str]) -> str:
    """What all of them end with, from the beginning of a word on."""
    reverse = [text[::-1] for text in texts]
    common = reverse[0]
    for text in reverse[1:]:
        common = common[: _common_start(common, text)]
    core = common[::-1]
    cut = any(len(text) > len(core) and text[-len(core) - 1].isalnum() for text in texts) if core else False
    return re.sub(r"\A\w+", "", core) if cut else core
