"""How sure the model is of its first tokens, read while stock ``generate`` runs; the rows that are not are stopped."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from trimkit.core.confidence import ENDED, Fallback, token_confidence

__all__ = ["ConfidenceWatch", "HeldStreamer", "StopUnsure"]


class ConfidenceWatch(LogitsProcessor):
    """Leaves the scores as they are. Goes last, so that it sees the distribution from which tokens are taken.

    Args:
        fallback: what is looked at.
        rung: which of its budgets the answer has; 0 is the method's own.
        ends: ids that end an answer.
        before: ``[B, tokens]``, what the rung before ``said`` of these rows; None on the first.

    Attributes:
        steps: how many distributions were seen.
        lowest: ``[B]`` confidence in the token of each row that the model was least sure of so far; None before the first.
    """

    def __init__(self, fallback: Fallback, rung: int, ends: Tensor, before: Tensor | None = None) -> None:
        self._fallback, self._ends, self._before = fallback, ends, before
        self._threshold, self._agreed = fallback.threshold_of(rung), fallback.agreed_of(rung)
        self._said: list[Tensor] = []
        self.steps = 0
        self.lowest: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Look at the scores ``[B, V]`` of the next token, where it is one of the first."""
        if self.steps < self._fallback.tokens:
            each, ended = token_confidence(scores, self._fallback.measure), None
            if self.lowest is None:
                self.lowest = each
            else:
                ended = torch.isin(input_ids[:, -self.steps :], self._ends.to(input_ids.device)).any(dim=1)
                self.lowest = torch.where(ended, self.lowest, torch.minimum(self.lowest, each))
            if self._fallback.agreed:
                likeliest = scores.argmax(dim=-1)
                self._said.append(likeliest if ended is None else likeliest.masked_fill(ended, ENDED))
            self.steps += 1
        return scores

    @property
    def complete(self) -> bool:
        """Whether all tokens that are to be looked at were seen."""
        return self.steps >= self._fallback.tokens

    def unsure(self) -> Tensor:
        """``[B]`` bool; what is not a number is unsure, too.

        Raises:
            RuntimeError: nothing was generated.
        """
        if self.lowest is None:
            raise RuntimeError("no token was generated")
        sure = self.lowest >= self._threshold
        if self._before is not None and self._agreed < math.inf:
            same = (self.said == self._before.to(self.lowest.device)).all(dim=1)
            sure = sure | (same & (self.lowest >= self._agreed))
        return ~sure

    @property
    def said(self) -> Tensor:
        """``[B, tokens]`` int64, the likeliest tokens of those that are looked at; ``ENDED`` behind an answer's end.

        Only where the fallback compares them (``agreed``).
        """
        said = torch.stack(self._said, dim=1)
        return torch.nn.functional.pad(said, (0, self._fallback.tokens - said.shape[1]), value=ENDED)


class StopUnsure(StoppingCriteria):
    """Ends the rows that will be asked for again, as soon as that is known."""

    def __init__(self, watch: ConfidenceWatch) -> None:
        self._watch = watch

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """``[B]`` bool, which rows are done."""
        if not self._watch.complete:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        return self._watch.unsure().to(input_ids.device)


class HeldStreamer(BaseStreamer):
    """Holds what is streamed back until it is known whether the answer stays.

    Args:
        streamer: the user's.
        watch: of the one row that is streamed.
    """

    def __init__(self, streamer: Any, watch: ConfidenceWatch) -> None:
        self._streamer, self._watch = streamer, watch
        self._held: list[Tensor] | None = []

    def put(self, value: Tensor) -> None:
        """The prompt, then token after token."""
        if self._held is None:
            self._streamer.put(value)
            return
        self._held.append(value)
        if self._watch.complete and len(self._held) > self._watch.steps:
            self.release()

    def end(self) -> None:
        """The answer is over."""
        self.release()
        if self._held is None:
            self._streamer.end()

    def release(self) -> None:
        """Hand over what is held, where the answer stays."""
        if self._held is not None and not bool(self._watch.unsure().any()):
            for value in self._held:
                self._streamer.put(value)
            self._held = None
