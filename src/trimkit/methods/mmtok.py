"""MMTok: tokens that cover the question's words and the picture's own patches."""

from __future__ import annotations

import re
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, signal

__all__ = ["MMTok", "content_words", "coverage_rows", "greedy_cover"]

_PROMPTS = (  # of benchmarks; they say nothing about the picture
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
)
_FUNCTION_WORDS = frozenset(
    (
        *(
            "a",
            "an",
            "the",
            "is",
            "are",
            "was",
            "were",
            "be",
            "been",
            "being",
            "am",
            "do",
            "does",
            "did",
            "have",
            "has",
            "had",
        ),
        *(
            "of",
            "in",
            "on",
            "at",
            "to",
            "for",
            "with",
            "by",
            "from",
            "and",
            "or",
            "but",
            "not",
            "this",
            "that",
            "these",
        ),
        *("those", "it", "its", "as", "what", "which", "who", "where"),
    )
)


class MMTok(ChoosingMethod):
    """Chooses greedily the tokens that cover the question's words and the picture's own patches.

    1. How much token j covers word i: softmax over the tokens of cosine / ``text_temperature``, between the word's input
       embedding in the language model and the token behind the projector, divided by the number of words.
    2. How much it covers patch i: softmax of cosine / ``image_temperature`` between patches before the projector, times
       ``alpha``, divided by the number of patches.
    3. Take the token that raises the sum of the largest covers most, until the budget is full.

    The question's words are those of its text without benchmark prompts and function words, or all where none is left. The
    published list of 43 function words is not ours; ours is the English articles, auxiliaries, prepositions and pronouns. The
    published code leaves out patches that see only padding of the square (``greedy_cover``'s ``allowed``); processors of
    transformers crop instead. Where the budget decides per image, a token's score is its gain when nothing is kept.

    Options:
        alpha: weight of the patches against the words.
        text_temperature, image_temperature: of the softmaxes.
    """

    name: ClassVar[str] = "mmtok"
    summary: ClassVar[str] = "MMTok: tokens that cover the question's words and the picture's patches"
    paper: ClassVar[str] = "https://github.com/Ironieser/MMTok"
    uses_text: ClassVar[bool] = True
    reads_relevance: ClassVar[bool] = False
    signals: ClassVar[frozenset[str]] = frozenset({"projected", "words"})

    budget: BudgetField = Budget("count", 64)
    alpha: float = Field(default=0.5, ge=0.0)
    text_temperature: float = Field(default=0.02, gt=0.0)
    image_temperature: float = Field(default=0.2, gt=0.0)

    def words(self, question: str) -> str:
        return content_words(question)

    def quality(self, image: TokenBatch) -> Tensor:
        return self._rows(image).sum(dim=0)

    @property
    def gives_the_count(self) -> bool:
        return True

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        return greedy_cover(self._rows(image), count)

    def _rows(self, image: TokenBatch) -> Tensor:
        projected, words = signal(self, image, "projected")[0], signal(self, image, "words")[0]
        return coverage_rows(
            words, projected, image.features[0], self.alpha, self.text_temperature, self.image_temperature
        )


def content_words(question: str) -> str:
    """The words of a question that say what is asked, in their order; the question itself where none is left."""
    for prompt in _PROMPTS:
        question = question.replace(prompt, " ")
    words = [word for word in re.findall(r"\w+", question) if word.lower() not in _FUNCTION_WORDS]
    return " ".join(words) or question.strip()


def coverage_rows(
    text: Tensor, projected: Tensor, features: Tensor, alpha: float, text_temperature: float, image_temperature: float
) -> Tensor:
    """How well each token covers each word and each patch.

    Args:
        text: ``[m, H]`` input embeddings of the question's words; m may be 0.
        projected: ``[N, H]`` tokens after the projector.
        features: ``[N, D]`` the same before it.
        alpha: weight of the patches.
        text_temperature, image_temperature: of the two softmaxes.

    Returns:
        ``[m + N, N]`` float32: rows are to be covered, columns can be chosen.
    """
    words, tokens, patches = (_unit(each) for each in (text, projected, features))
    from_text = torch.softmax(words @ tokens.T / text_temperature, dim=1) / max(len(words), 1)
    from_image = torch.softmax(patches @ patches.T / image_temperature, dim=1) / max(len(patches), 1)
    return torch.cat([from_text, alpha * from_image])


def greedy_cover(rows: Tensor, count: int, allowed: Tensor | None = None) -> Tensor:
    """Columns that raise the sum over rows of the largest chosen value most, one after the other.

    Args:
        rows: ``[R, N]``, not negative.
        count: 1 to N.
        allowed: ``[N]`` bool; the others are chosen only when none of these is left.

    Returns:
        ``[count]`` int64 in the order of choice; equal gains go to the lower index.
    """
    best = rows.new_zeros(len(rows), 1)
    barred = torch.zeros(rows.shape[1], dtype=rows.dtype, device=rows.device)
    if allowed is not None:
        barred = barred.masked_fill(~allowed, -1e9)
    chosen = []
    for _ in range(count):
        gains = (rows - best).clamp(min=0.0).sum(dim=0) + barred
        pick = gains.argmax(dim=0, keepdim=True)  # used where it is, so that the host need not wait for it
        chosen.append(pick)
        barred = barred.scatter(0, pick, -torch.inf)
        best = torch.maximum(best, rows.index_select(1, pick))
    return torch.cat(chosen)


def _unit(vectors: Tensor) -> Tensor:
    wide = vectors.float().nan_to_num(0.0)
    lengths: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return wide / lengths.clamp(min=1e-8)
