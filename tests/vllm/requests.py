"""One request, asked of a vLLM server and of transformers + trimkit: the greedy replies have to be equal token for token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

import trimkit
from tests.vllm.server import picture_url

NEW_TOKENS = 8


@dataclass(frozen=True)
class Turn:
    """What one side says; a user may show pictures before it."""

    text: str
    pictures: tuple[Image.Image, ...] = ()
    role: str = "user"


@dataclass(frozen=True)
class Case:
    """A conversation up to the turn that is to be answered, and how its pictures are reduced.

    Attributes:
        turns: of the conversation.
        trim: the request's settings, as a client gives them; {} for the server's own.
        uuids: names that the client gives its pictures.
    """

    turns: tuple[Turn, ...]
    trim: dict[str, Any] = field(default_factory=dict)
    uuids: tuple[str, ...] = ()

    @property
    def pictures(self) -> list[Image.Image]:
        return [picture for turn in self.turns for picture in turn.pictures]


def body(case: Case, **more: Any) -> dict[str, Any]:
    """For the server."""
    names = iter(case.uuids)
    messages = []
    for turn in case.turns:
        parts: list[dict[str, Any]] = []
        for picture in turn.pictures:
            part = {"type": "image_url", "image_url": {"url": picture_url(picture)}}
            parts.append({**part, "uuid": next(names)} if case.uuids else part)
        content: Any = [*parts, {"type": "text", "text": turn.text}] if parts else turn.text
        messages.append({"role": turn.role, "content": content})
    settings = {"mm_processor_kwargs": {"trim": case.trim}} if case.trim else {}
    plain = {"model": "m", "max_tokens": NEW_TOKENS, "temperature": 0, "return_token_ids": True}
    return {**plain, "messages": messages, **settings, **more}


class Reference:
    """Transformers + trimkit.

    Args:
        model, processor: loaded from the checkpoint that is served.
        default: the server's own settings.
        causal: whether image tokens attend backwards only, also where the model lets them attend both ways.
    """

    def __init__(self, model: Any, processor: Any, default: dict[str, Any], *, causal: bool = False) -> None:
        self.model, self.processor, self.default, self.causal = model, processor, default, causal
        self._cache = trimkit.FeatureCache(64)

    def ids(self, case: Case) -> list[int]:
        """The reply's token ids, its end token included, as a server gives them."""
        options = {**self.default, **case.trim}
        query = options.pop("query", None)
        inputs = self.processor(images=case.pictures, text=self._prompt(case), return_tensors="pt", **self._text(case))
        if self.causal:
            inputs.pop("token_type_ids", None)
        with (
            torch.no_grad(),
            trimkit.reduce(self.model, self.processor, cache_images=self._cache, **options),
        ):
            more = {} if query is None else {"query": query}
            out = self.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **more)
        return [int(token) for token in out[0, inputs["input_ids"].shape[1] :]]

    def report(self, case: Case) -> Any:
        """What an attached model keeps."""
        inputs = self.processor(images=case.pictures, text=self._prompt(case), return_tensors="pt", **self._text(case))
        with torch.no_grad(), trimkit.reduce(self.model, self.processor, **case.trim) as trim:
            self.model.generate(**inputs, max_new_tokens=1, do_sample=False)
            return trim.report

    def all_ids(self, cases: Sequence[Case]) -> list[list[int]]:
        return [self.ids(case) for case in cases]

    def _prompt(self, case: Case) -> str:
        messages = []
        for turn in case.turns:
            parts: list[dict[str, Any]] = [{"type": "image"} for _ in turn.pictures]
            messages.append({"role": turn.role, "content": [*parts, {"type": "text", "text": turn.text}]})
        text: str = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text

    def _text(self, case: Case) -> dict[str, Any]:
        """A server adds no special tokens to what a chat template has rendered."""
        return {"add_special_tokens": False}
