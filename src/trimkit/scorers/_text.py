"""Question embeddings: long questions in chunks, each embedding computed once and held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trimkit.core.recent import Recent
from trimkit.core.transfer import one_by_one, upload
from trimkit.errors import InputError

__all__ = ["TextEncoder"]

_HELD = 256


class TextEncoder:
    """One text tower with its tokenizer.

    Args:
        embed: token ids ``[n, L]`` to embeddings ``[n, P]``.
        tokenizer: gives ``input_ids`` with the tower's own start and end tokens.
        max_length: tokens the tower takes, those two included.
        start: how many start tokens there are (CLIP one, SigLIP none); there is one end token.
        pad_id: what shorter chunks are filled up with to ``max_length``, where the tower was trained so.
        causal: what follows the first end token does not change the embedding, so that questions of several lengths can be
            computed together.
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
        causal: bool = False,
    ) -> None:
        self._embed_ids, self._tokenizer, self._max_length, self._device = embed, tokenizer, max_length, device
        self._start, self._pad_id, self._causal = start, pad_id, causal
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
        held = {query: self._held.get((query, truncate)) for query in queries}
        chunks = {query: self._chunks(query, truncate) for query, found in held.items() if found is None}
        if chunks:
            embedded = iter(self._embedded([self._filled(ids) for parts in chunks.values() for ids in parts]))
            for query, parts in chunks.items():
                text = self._joined([next(embedded) for _ in parts], parts)
                self._held.put((query, truncate), text)
                held[query] = text
        return [found for query in queries if (found := held[query]) is not None]

    def is_whole(self, query: str) -> bool:
        """Whether the tower takes a question in one piece, so that ``segments`` gives the one embedding that a call gives."""
        return len(self._tokenizer(query, truncation=False, verbose=False)["input_ids"]) <= self._max_length

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
            rows = [self._embed_ids(upload([self._filled(part)], self._device()))[0] for part in parts]
            held = torch.stack(rows).float()
            self._held_segments.put(query, held)
        return held

    def _embedded(self, chunks: list[list[int]]) -> list[Tensor]:
        """``[P]`` float32 of each chunk. Those computed together have one length, or end in more end tokens."""
        device = self._device()
        if one_by_one(device):  # without padding, so that an embedding does not depend on what else is asked
            return [self._embed_ids(upload([ids], device))[0].float() for ids in chunks]
        longest = max(map(len, chunks))
        chunks = [ids + ids[-1:] * (longest - len(ids)) for ids in chunks] if self._causal else chunks
        done: dict[int, Tensor] = {}
        for length in dict.fromkeys(map(len, chunks)):
            group = [i for i, ids in enumerate(chunks) if len(ids) == length]
            done.update(zip(group, self._embed_ids(upload([chunks[i] for i in group], device)).float(), strict=True))
        return [done[i] for i in range(len(chunks))]

    def _joined(self, embeddings: list[Tensor], chunks: list[list[int]]) -> Tensor:
        """The mean of a question's chunks, weighted by the tokens that are its own."""
        if len(embeddings) == 1:
            return embeddings[0]
        stacked = torch.stack(embeddings)
        weights = upload([max(float(len(ids) - self._start - 1), 1.0) for ids in chunks], stacked.device).float()
        return (stacked * weights.unsqueeze(1)).sum(0) / weights.sum()

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
