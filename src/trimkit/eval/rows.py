"""Answer rows of a benchmark in batches, with any method and pictures; one that cannot be asked is named, not lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from trimkit.attach import Attachment

__all__ = ["Reply", "Row", "answer", "batches"]

_MARK = "<image>"  # how tasks of lmms-eval write a picture's place, whatever the model's own token is


@dataclass(frozen=True)
class Row:
    """A question about some pictures, or about none.

    Attributes:
        text: the question; it is also what relevance is measured against. ``<image>`` in it is a picture's place, where there
            are as many as pictures; else the pictures come first.
        images: PIL images.
        problem: why the row cannot be asked (a damaged picture, say); None where it can.
    """

    text: str
    images: Sequence[Any] = field(default_factory=tuple)
    problem: str | None = None


@dataclass(frozen=True)
class Reply:
    """What came back: the text, image tokens before and after; ``skipped`` is the reason where the row was not asked."""

    text: str = ""
    tokens_full: int = 0
    tokens_kept: int = 0
    skipped: str | None = None


def batches(keys: Sequence[Any], size: int) -> list[list[int]]:
    """Indices of rows in batches of up to ``size``; only rows with equal keys share one. The order of rows is kept in each."""
    groups: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]


def answer(
    attachment: Attachment, processor: Any, rows: Sequence[Row], *, max_new_tokens: int, **generation: Any
) -> list[Reply]:
    """Ask a batch of rows on an attached model.

    A row is skipped, with the reason, where it has a ``problem``, where the processor cannot take it, or where its prompt is
    longer than the model's context after reduction. One that leaves less room than ``max_new_tokens`` gets what there is.

    Args:
        attachment: an attachment whose model is attached.
        processor: the model's.
        rows: either all of them have pictures, or none.
        max_new_tokens, generation: as ``generate`` takes them.

    Returns:
        One reply a row, in order. For greedy decoding it does not depend on the other rows.
    """
    replies: dict[int, Reply] = {i: Reply(skipped=row.problem) for i, row in enumerate(rows) if row.problem is not None}
    asked = [i for i in range(len(rows)) if i not in replies]
    inputs, problems = _readable(processor, [rows[i] for i in asked])
    replies |= {asked[i]: Reply(skipped=problem) for i, problem in problems.items()}
    asked = [i for i in asked if i not in replies]
    if not asked:
        return [replies[i] for i in range(len(rows))]
    rooms = _rooms(attachment, processor, [rows[i] for i in asked], inputs, max_new_tokens)
    replies |= {i: Reply(skipped=room) for i, room in zip(asked, rooms, strict=True) if isinstance(room, str)}
    fits = [i for i in asked if i not in replies]
    if len(fits) < len(asked):
        inputs = _inputs(processor, [rows[i] for i in fits]) if fits else None
    if fits:
        room = [each for each in rooms if isinstance(each, int)]
        answered = _generate(attachment, processor, [rows[i] for i in fits], inputs, room, generation)
        replies |= zip(fits, answered, strict=True)
    return [replies[i] for i in range(len(rows))]


def _readable(processor: Any, rows: Sequence[Row]) -> tuple[Any, dict[int, str]]:
    """Inputs of the rows that the processor takes, and why it does not take the others, by index."""
    try:
        return (_inputs(processor, rows) if rows else None), {}
    except Exception as error:  # processors refuse in ways of their own
        cause = " ".join(str(error).split())[:120] or type(error).__name__
        if len(rows) == 1:
            return None, {0: f"the processor cannot take it ({cause})"}
    problems = {i: found[0] for i, row in enumerate(rows) if (found := _readable(processor, [row])[1])}
    if not problems:  # each alone is taken, and all together are not
        return None, dict.fromkeys(range(len(rows)), f"the processor cannot take the batch ({cause})")
    return _readable(processor, [row for i, row in enumerate(rows) if i not in problems])[0], problems


def _rooms(
    attachment: Attachment, processor: Any, rows: Sequence[Row], inputs: Any, max_new_tokens: int
) -> list[int | str]:
    """New tokens that each row may have, or why there is no room for any."""
    limit = getattr(attachment.model.config.get_text_config(), "max_position_embeddings", None)
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    if limit is None or max(lengths) + max_new_tokens <= limit:
        return [max_new_tokens] * len(rows)
    if _pictured(rows):
        lengths = attachment.reduced_lengths(_placed(attachment, inputs), _questions(processor, rows))
    return [
        f"its prompt has {length} tokens after reduction, and the model's context holds {limit}"
        if length >= limit
        else min(max_new_tokens, limit - length)
        for length in lengths
    ]


def _generate(
    attachment: Attachment,
    processor: Any,
    rows: Sequence[Row],
    inputs: Any,
    room: Sequence[int],
    generation: Mapping[str, Any],
) -> list[Reply]:
    pictured = _pictured(rows)
    query = {"query": _questions(processor, rows)} if pictured else {}
    with torch.inference_mode():
        out = attachment.model.generate(**_placed(attachment, inputs), **query, max_new_tokens=max(room), **generation)
    start = inputs["input_ids"].shape[1]
    new = [sequence[start : start + mine] for sequence, mine in zip(out, room, strict=True)]
    texts = [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    images = attachment.report.images if pictured else ()
    return [
        Reply(
            text,
            sum(image.tokens_before for image in images if image.row == row),
            attachment.report.tokens_of_row(row) if pictured else 0,
        )
        for row, text in enumerate(texts)
    ]


def _pictured(rows: Sequence[Row]) -> bool:
    return any(row.images for row in rows)


def _placed(attachment: Attachment, inputs: Any) -> Any:
    return inputs.to(attachment.model.device, attachment.model.dtype)


def _inputs(processor: Any, rows: Sequence[Row]) -> Any:
    images = {"images": [list(row.images) for row in rows]} if _pictured(rows) else {}
    prompts = [_prompt(processor, row) for row in rows]
    return processor(text=prompts, padding=True, padding_side="left", return_tensors="pt", verbose=False, **images)


def _prompt(processor: Any, row: Row) -> str:
    """The chat template's prompt; without one, LLaVA-1.5's ``USER: ... ASSISTANT:`` form."""
    parts = [_plain(processor, part) for part in row.text.split(_MARK)]
    if len(parts) - 1 != len(row.images):  # the places are not said: the pictures come first
        parts = [""] * len(row.images) + [_plain(processor, row.text)]
    if not getattr(processor, "chat_template", None):
        picture = f"{getattr(processor, 'image_token', None) or _MARK}\n"
        return f"USER: {picture.join(parts)} ASSISTANT:"
    content: list[dict[str, str]] = []
    for place, part in enumerate(parts):
        content += [{"type": "image"}] if place else []
        content += [{"type": "text", "text": part}] if part.strip() else []
    turn = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))


def _questions(processor: Any, rows: Sequence[Row]) -> list[str]:
    return [_plain(processor, row.text) for row in rows]


def _plain(processor: Any, text: str) -> str:
    """Text without places of pictures: a placeholder in it would be counted as a picture."""
    for mark in {_MARK, getattr(processor, "image_token", None) or _MARK}:
        text = text.replace(mark, " ").strip() if mark in text else text
    return text
