"""Question embeddings: long questions in chunks, each embedding computed once and held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trimkit.core.recent import Recent
from trimkit.errors import InputError

__all__ = ["TextEncoder"]

_HELD = 256


class TextEncoder:
    """One text tower with its tokenizer.

    Args:
        embed: token ids ``[1, L]`` to an embedding ``[1, P]``.
        tokenizer: gives ``input_ids`` with the tower's own start and end tokens.
        max_length: tokens the tower takes, those two included.
        start: how many start tokens there are (CLIP one, SigLIP none); there is one end token.
        pad_id: what shorter chunks are filled up with to ``max_length``, where the tower was trained so.
    """

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        tokenizer: Any,
        max_length: int,
        device: Callable[[], torch.device],
        *,
        start: int = 1,
        pad_id: int | None = None,
    ) -> None:
        self._embed_ids, self._tokenizer, self._max_length, self._device = embed, tokenizer, max_length, device
        self._start, self._pad_id = start, pad_id
        self._held: Recent[tuple[str, bool], Tensor] = Recent(_HELD)
        self._held_segments: Recent[str, Tensor] = Recent(_HELD)

    def clear(self) -> None:
        """Forget embeddings."""
        self._held.clear()
        self._held_segments.clear()

    @torch.no_grad()
    def __call__(self, queries: Sequence[str], *, truncate: bool = False) -> list[Tensor]:
        """One ``[P]`` float32 embedding a question. Beyond the tower's length: the mean over chunks, weighted by their tokens.

        Raises:
            InputError: a question is empty.
        """
        for query in queries:
            if not query.strip():
                raise InputError("the question is empty: ask something, or use a method that does not read the text")
        return [self._embed(query, truncate) for query in queries]

    @torch.no_grad()
    def segments(self, query: str) -> Tensor:
        """``[S, P]`` float32 of a question cut as CDPruner's code cuts it: ids with one start and one end token, in pieces of
        the tower's length. A piece without an end token is read where the tower looks for it in vain.

        Raises:
            InputError: the question is empty.
        """
        if not query.strip():
            raise InputError("the question is empty: ask something, or use a method that does not read the text")
        held = self._held_segments.get(query)
        if held is None:
            ids = self._tokenizer(query, truncation=False, verbose=False)["input_ids"]
            parts = [ids[i : i + self._max_length] for i in range(0, len(ids), self._max_length)]
            rows = [self._embed_ids(torch.tensor([self._filled(part)], device=self._device()))[0] for part in parts]
            held = torch.stack(rows).float()
            self._held_segments.put(query, held)
        return held

    def _embed(self, query: str, truncate: bool) -> Tensor:
        key = (query, truncate)
        held = self._held.get(key)
        if held is not None:
            return held
        chunks = self._chunks(query, truncate)
        device = self._device()
        # One chunk at a time: no padding, so an embedding does not depend on what else is asked.
        embeddings = [self._embed_ids(torch.tensor([self._filled(ids)], device=device))[0] for ids in chunks]
        specials = self._start + 1
        weights = torch.tensor([float(len(ids) - specials) for ids in chunks], device=device).clamp(min=1.0)
        stacked = torch.stack(embeddings).float()
        text = stacked[0] if len(chunks) == 1 else (stacked * weights.unsqueeze(1)).sum(0) / weights.sum()
        self._held.put(key, text)
        return text

    def _filled(self, ids: list[int]) -> list[int]:
        return ids if self._pad_id is None else ids + [self._pad_id] * (self._max_length - len(ids))

    def _chunks(self, query: str, truncate: bool) -> list[list[int]]:
        """Token ids per chunk, each with its own start and end token."""
        if truncate:
            return [self._tokenizer(query, truncation=True, max_length=self._max_length)["input_ids"]]
        whole = self._tokenizer(query, truncation=False, verbose=False)["input_ids"]
        if len(whole) <= self._max_length:
            return [whole]
        start, body, end = whole[: self._start], whole[self._start : -1], whole[-1:]
        room = self._max_length - self._start - 1
        count = -(-len(body) // room)
        size = -(-len(body) // count)  # even chunks: a last one of three words would weigh as much as a full one
        return [start + body[i : i + size] + end for i in range(0, len(body), size)]
