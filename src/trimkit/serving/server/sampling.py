"""The next token of one reply: greedy or sampled, by a random stream of its own, so that other requests change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimkit.serving.server.schema import ChatRequest

__all__ = ["Sampler", "Sampling", "sampling_of"]


_COLDEST = 1e-5  # below it, scores over the temperature are too large for a float


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: 0 takes the likeliest, as what is nearly 0 does.
        top_p: share of the probability that is drawn from, 1 for all.
        top_k: how many of the likeliest are drawn from, 0 for all.
        seed: of the random stream; None for one that no other request has.
        repetition_penalty: as the checkpoint asks for it, 1 for none.
        min_tokens: before which the reply does not end.
        ignore_eos: whether only its length and stop texts end the reply.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    ignore_eos: bool = False


def sampling_of(request: ChatRequest, defaults: Any) -> Sampling:
    """What a request asks for; what it leaves open is as the checkpoint's ``generation_config`` says (greedy for most)."""
    own = bool(getattr(defaults, "do_sample", False))

    def default(name: str, otherwise: float) -> float:
        found = getattr(defaults, name, None) if own else None
        return otherwise if found is None else float(found)

    given = request.temperature
    temperature = given if given is not None else default("temperature", 1.0) if own else 0.0
    temperature = temperature if temperature >= _COLDEST else 0.0
    top_k = request.top_k if request.top_k is not None else int(default("top_k", 0))
    return Sampling(
        temperature=temperature,
        top_p=request.top_p if request.top_p is not None else default("top_p", 1.0),
        top_k=max(top_k, 0),
        seed=request.seed,
        repetition_penalty=float(getattr(defaults, "repetition_penalty", None) or 1.0),
        min_tokens=request.min_tokens or 0,
        ignore_eos=bool(request.ignore_eos),
    )


class Sampler:
    """Draws the tokens of one reply.

    Args:
        sampling: how.
        prompt: ``[L]`` token ids of the prompt as it is run; the repetition penalty counts them, as ``generate`` does.
        ends: ids that end a reply.
    """

    def __init__(self, sampling: Sampling, prompt: Tensor, ends: Sequence[int]) -> None:
        from transformers import RepetitionPenaltyLogitsProcessor

        self._sampling = sampling
        self._ends = list(ends)
        self._warpers = _warpers(sampling)
        penalty = sampling.repetition_penalty
        self._penalty = RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1.0 else None
        self._ids = prompt.detach().cpu()
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def scores(self, logits: Tensor, count: int) -> Tensor:
        """``[V]`` of the next token, on the CPU, before temperature and the like.

        Args:
            logits: ``[V]`` of the last position.
            count: tokens drawn before.

        Raises:
            FloatingPointError: the logits are no numbers.
        """
        scores = logits.detach().float().cpu().unsqueeze(0)
        if not bool(torch.isfinite(scores.max())):
            raise FloatingPointError("the model's logits are no numbers")
        if self._penalty is not None:
            scores = self._penalty(self._ids.unsqueeze(0), scores)
        if self._ends and (self._sampling.ignore_eos or count < self._sampling.min_tokens):
            scores = scores.index_fill(1, torch.tensor(self._ends), -torch.inf)
        return scores[0]

    def draw(self, logits: Tensor, count: int) -> int:
        """The next token.

        Args:
            logits: ``[V]`` of the last position.
            count: tokens drawn before.

        Raises:
            FloatingPointError: the logits are no numbers.
        """
        scores = self.scores(logits, count).unsqueeze(0)
        if self._sampling.temperature == 0:
            token = int(scores.argmax())
        else:
            for warper in self._warpers:
                scores = warper(self._ids.unsqueeze(0), scores)
            token = int(torch.multinomial(scores.softmax(dim=-1), 1, generator=self._random))
        if self._penalty is not None:
            self._ids = torch.cat([self._ids, torch.tensor([token])])
        return token


def _warpers(sampling: Sampling) -> list[Any]:
    """Those of transformers, in the order of its ``generate``."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return []
    found: list[Any] = []
    if sampling.temperature != 1:
        found.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    return found
