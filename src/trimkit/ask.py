"""Ask one question about pictures: with reduced image tokens, or reduced and full side by side, fairly timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trimkit.attach import Attachment, reduce
from trimkit.core.choices import Positions
from trimkit.core.confidence import Fallback
from trimkit.core.types import Report
from trimkit.engines import TowerEngine
from trimkit.errors import InputError
from trimkit.io.text import is_text
from trimkit.methods import Method, get_method
from trimkit.models import family_of
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.pipeline.model_store import scorer_of

__all__ = [
    "Answer",
    "ask",
    "build_chat_inputs",
    "build_inputs",
    "check_question",
    "compare",
    "decode",
    "seen_boxes",
]

_MOST_IMAGES = 64  # held within one run
_REPEATS = 5
_REPEAT_SECONDS = 10.0  # slower pairs of runs are timed once after the warm-up: a repeat costs more than it tells


@dataclass(frozen=True)
class Answer:
    """What a model said, and at what cost.

    Attributes:
        answer: the reply.
        image_tokens_full, image_tokens_kept: tokens of the picture before and after reduction; with ``fallback``, after it
            those of all tries.
        seconds: one ``generate`` call from pixels to reply, vision tower and question included.
        report: per image and per stage; None for the stock model.
    """

    answer: str
    image_tokens_full: int
    image_tokens_kept: int
    seconds: float
    report: Report | None = None

    def to_plain(self) -> dict[str, Any]:
        """The four keys that ``--json`` prints."""
        return {
            "answer": self.answer,
            "image_tokens_full": self.image_tokens_full,
            "image_tokens_kept": self.image_tokens_kept,
            "seconds": round(self.seconds, 4),
        }


def ask(
    model: Any,
    processor: Any,
    image: Any,
    question: str,
    *,
    method: str | Method = "trim",
    scorer: Any = None,
    max_new_tokens: int = 32,
    vision_engine: str | None = None,
    fallback: str | Mapping[str, Any] | Fallback | None = None,
    positions: Positions = "auto",
    **options: Any,
) -> Answer:
    """Answer greedily with reduced image tokens.

    Args:
        model, processor: as ``trimkit.loading.load_model`` gives them.
        image: a PIL image, for example from ``trimkit.images.load_image``, or a list of them: all go into one prompt.
        question: what to ask; it is also what relevance is measured against.
        method, scorer, vision_engine, fallback, positions, options: as ``trimkit.reduce`` takes them.
        max_new_tokens: length limit of the reply.

    Returns:
        The answer; ``seconds`` is the one call's, first-call costs included.

    Raises:
        InputError: the question is empty or too long for the model.
        TrimkitError: whatever ``trimkit.reduce`` raises.
    """
    call: dict[str, Any] = {"vision_engine": vision_engine, "fallback": fallback, "positions": positions}
    attachment = _attachment(model, processor, question, get_method(method, **options), scorer, **call)
    inputs = build_inputs(model, processor, [image], [question], max_new_tokens=max_new_tokens)
    return _reduced(attachment, processor, inputs, max_new_tokens)


def compare(
    model: Any,
    processor: Any,
    image: Any,
    question: str,
    *,
    method: str | Method = "trim",
    scorer: Any = None,
    max_new_tokens: int = 32,
    vision_engine: str | None = None,
    fallback: str | Mapping[str, Any] | Fallback | None = None,
    positions: Positions = "auto",
    **options: Any,
) -> tuple[Answer, Answer]:
    """Answer with reduced tokens and with the stock model, interleaved; takes and raises what ``ask`` does.

    A first run of each warms up; then up to five of each are timed in turn and the medians taken. No image feature or
    question embedding is carried from one run to the next.

    Returns:
        The reduced and the full answer.
    """
    call: dict[str, Any] = {"vision_engine": vision_engine, "fallback": fallback, "positions": positions}
    attachment = _attachment(model, processor, question, get_method(method, **options), scorer, **call)
    inputs = build_inputs(model, processor, [image], [question], max_new_tokens=max_new_tokens)
    arms: tuple[Callable[[], Answer], ...] = (
        lambda: _reduced(attachment, processor, inputs, max_new_tokens),
        lambda: _full(model, processor, inputs, max_new_tokens),
    )
    first = [run() for run in arms]
    took = sum(answer.seconds for answer in first)
    repeats = min(_REPEATS, max(int(_REPEAT_SECONDS / max(took, 1e-6)), 1))
    runs = [[run() for run in arms] for _ in range(repeats)]
    medians = [statistics.median(pair[arm].seconds for pair in runs) for arm in (0, 1)]
    return replace(runs[-1][0], seconds=medians[0]), replace(runs[-1][1], seconds=medians[1])


def check_question(question: str) -> None:
    """Refuse a question with nothing in it, or that is no text.

    Raises:
        InputError: it is empty or blank, or holds undecodable bytes or lone surrogates.
    """
    if not question.strip():
        raise InputError("the question is empty: ask something about the picture")
    if not is_text(question):
        raise InputError("the question is not UTF-8 text (it holds bytes that are no letters): write it in UTF-8")


def build_inputs(
    model: Any, processor: Any, images: Sequence[Any], questions: Sequence[str], *, max_new_tokens: int = 32
) -> Any:
    """Model inputs of B conversations of one question each, left-padded, on the model's device.

    An entry of ``images`` is a picture, or a list of the pictures of its conversation.

    Uses the processor's chat template; without one, LLaVA-1.5's ``USER: ... ASSISTANT:`` form.

    Raises:
        InputError: a question is empty, holds the image placeholder, or is too long for the model.
    """
    return build_chat_inputs(model, processor, images, [[each] for each in questions], max_new_tokens=max_new_tokens)


def build_chat_inputs(
    model: Any, processor: Any, images: Sequence[Any], chats: Sequence[Sequence[str]], *, max_new_tokens: int = 32
) -> Any:
    """``build_inputs`` for B conversations about their pictures: question, answer, question, ... in turn, a question last."""
    token = getattr(processor, "image_token", None)
    for question in (question for chat in chats for question in chat[::2]):
        check_question(question)
        if token and token in question:
            raise InputError(f"the question holds the image placeholder {token!r}: leave it out, it is added for you")
    groups = [list(each) if isinstance(each, (list, tuple)) else [each] for each in images]
    prompts = [_prompt(processor, chat, len(group)) for chat, group in zip(chats, groups, strict=True)]
    flat = [picture for group in groups for picture in group]
    inputs = processor(images=flat, text=prompts, padding=True, padding_side="left", return_tensors="pt", verbose=False)
    _check_length(model, inputs, max_new_tokens)
    return inputs.to(model.device, model.dtype)


def decode(processor: Any, inputs: Any, sequences: Any) -> list[str]:
    """Replies in ``sequences`` ``[B, L + new]``, which start with the prompts of ``inputs``."""
    replies = processor.batch_decode(sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [reply.strip() for reply in replies]


def seen_boxes(model: Any, processor: Any, images: Sequence[Any], report: Report) -> list[Any]:
    """Which part of every picture the model's processor left, as shares ``(left, top, right, bottom)`` of its sides.

    The processor is run on pictures of the same sizes whose colors are coordinates. None where that does not tell.

    Args:
        model, processor: as for ``ask``.
        images: the PIL images of the call, in order.
        report: the call's.
    """
    from trimkit.pipeline.report_pictures import rgb_views
    from trimkit.viz.crops import MAX_PIXELS, coordinates, seen_box

    sizes = [image.size for image in images]
    if len(report.images) != len(sizes) or any(width * height > MAX_PIXELS for width, height in sizes):
        return [None] * len(sizes)
    stand_ins = [coordinates(*size) for size in sizes]
    inputs = processor(
        images=stand_ins, text=[_prompt(processor, ["?"], len(sizes))], return_tensors="pt", verbose=False
    )
    views = rgb_views(model, processor, dict(inputs), report.images)
    return [seen_box(each, size) for each, size in zip(views, sizes, strict=True)]


def _prompt(processor: Any, chat: Sequence[str], pictures: int = 1) -> str:
    if getattr(processor, "chat_template", None):
        roles = ("user", "assistant")
        turns = [{"role": roles[i % 2], "content": [{"type": "text", "text": text}]} for i, text in enumerate(chat)]
        turns[0]["content"] = [*[{"type": "image"}] * pictures, {"type": "text", "text": chat[0]}]
        return str(processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    first, *later = chat
    said = "".join(f" {text} USER: {later[i + 1]} ASSISTANT:" for i, text in enumerate(later) if i % 2 == 0)
    marks = f"{getattr(processor, 'image_token', '<image>')}\n" * pictures
    return f"USER: {marks}{first} ASSISTANT:{said}"


def _check_length(model: Any, inputs: Any, max_new_tokens: int) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return
    image_token = family_of(model).image_token_id(model)
    pictures = int((inputs["input_ids"] == image_token).sum(dim=1).max())
    text = inputs["input_ids"].shape[1] - pictures
    room = limit - pictures - max_new_tokens
    if room < 8:
        raise InputError(
            f"the pictures take {pictures} image tokens, and with {max_new_tokens} new ones this model has room for {limit}: "
            "give fewer or smaller pictures"
        )
    if text > room:
        raise InputError(
            f"the question takes {text} tokens, but beside {pictures} image tokens and {max_new_tokens} new ones this "
            f"model has room for {max(room, 0)}: ask in at most about {max(int(room * 0.7), 0)} words"
        )


def _attachment(model: Any, processor: Any, question: str, method: Method, scorer: Any, **call: Any) -> Attachment:
    """A detached attachment whose scorer and engine are loaded already, so that loading is not timed.

    No image is held from one run to the next; within one, what is asked again finds its features.
    """
    scorer = scorer_of(model, scorer) if method.needs_relevance else None
    named = call.pop("vision_engine")
    engine = None if named is None else TowerEngine(named)
    cache: Any = 0 if call.get("fallback") is None else FeatureCache(_MOST_IMAGES)
    how: dict[str, Any] = {"query": question, "cache_images": cache, "vision_engine": engine, **call}
    found = reduce(model, processor, method=method, scorer=scorer, **how)
    if engine is not None:
        with found:  # loads it, and it stays loaded
            pass
    return found


def _reduced(attachment: Attachment, processor: Any, inputs: Any, max_new_tokens: int) -> Answer:
    attachment.clear_cache()
    with attachment:
        reply, seconds = _generate(attachment.model, processor, inputs, max_new_tokens)
    report = attachment.report
    return Answer(reply, report.tokens_before, report.tokens_tried, seconds, report)


def _full(model: Any, processor: Any, inputs: Any, max_new_tokens: int) -> Answer:
    reply, seconds = _generate(model, processor, inputs, max_new_tokens)
    tokens = int((inputs["input_ids"] == family_of(model).image_token_id(model)).sum())
    return Answer(reply, tokens, tokens, seconds)


def _generate(model: Any, processor: Any, inputs: Any, max_new_tokens: int) -> tuple[str, float]:
    import torch

    def now() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return time.perf_counter()

    start = now()
    sequences = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    seconds = now() - start
    return decode(processor, inputs, sequences)[0], seconds
