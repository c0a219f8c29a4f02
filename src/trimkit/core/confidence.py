"""How sure a language model is of the first tokens of its answer, and what to do where it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from trimkit.core.budget import BudgetField
from trimkit.errors import ConfigError

__all__ = ["ENDED", "Fallback", "Measure", "answer_confidence", "fallback_of", "token_confidence"]

ENDED = -1
"""Instead of a token, behind an answer's end."""

Measure = Literal["margin", "probability", "entropy"]
"""Of one token: probability of the most likely minus that of the second (``margin``), that of the most likely
(``probability``), or the negative entropy in nats (``entropy``). Higher = surer."""


class Fallback(BaseModel):
    """When an answer with few image tokens is asked for again with more, and with how many.

    Attributes:
        measure: of confidence, see ``Measure``.
        threshold: an answer whose confidence is below it is asked for again. Margin and probability lie in 0..1, entropy is 0
            or less. ``trimkit calibrate --risk`` finds it; the default is no more than a sensible start.
        tokens: how many tokens of the answer are looked at; fewer where it is shorter.
        ladder: budgets between the method's own and all tokens, in the order in which they are tried.
        thresholds: of the answers with the ladder's budgets, one for each; empty where ``threshold`` is theirs, too.
        agreed: of an answer with a budget of the ladder whose likeliest tokens, of those that are looked at, are those of the
            answer before it, with fewer image tokens: it stays if its confidence is not below this either. One for each budget
            of the ladder; empty where it does not matter whether they agree.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: Measure = "margin"
    threshold: float = Field(default=0.5, allow_inf_nan=True)
    tokens: int = Field(default=1, ge=1)
    ladder: tuple[BudgetField, ...] = ()
    thresholds: tuple[Annotated[float, Field(allow_inf_nan=True)], ...] = ()
    agreed: tuple[Annotated[float, Field(allow_inf_nan=True)], ...] = ()

    def model_post_init(self, context: object) -> None:
        """Refuse thresholds that compare with nothing, or are not as many as the budgets they are for.

        Raises:
            ConfigError: one is NaN, or their number is not the ladder's.
        """
        if any(map(math.isnan, (self.threshold, *self.thresholds, *self.agreed))):
            raise ConfigError("fallback threshold NaN compares with nothing: give a number, for example 0.5")
        for name in ("thresholds", "agreed"):
            given = len(getattr(self, name))
            if given not in (0, len(self.ladder)):
                raise ConfigError(
                    f"fallback {name} are {given}, and the ladder has {len(self.ladder)} budgets: give one for each, or none"
                )

    def to_plain(self) -> dict[str, Any]:
        """As JSON; without ``agreed`` where there is none, so that a journal's fingerprint of it stays what it was."""
        said = self.model_dump(mode="json")
        return said if self.agreed else {name: value for name, value in said.items() if name != "agreed"}

    def threshold_of(self, rung: int) -> float:
        """Of the answer with the method's own budget (``rung`` 0) or the ladder's (from 1 on)."""
        return self.thresholds[rung - 1] if rung and self.thresholds else self.threshold

    def agreed_of(self, rung: int) -> float:
        """The threshold of an answer that agrees with the one of the rung before; infinite where that does not matter."""
        return self.agreed[rung - 1] if 0 < rung <= len(self.agreed) else math.inf


def fallback_of(value: str | Mapping[str, Any] | Fallback | None) -> Fallback | None:
    """What a user writes: ``full`` (the defaults), the fields as a mapping, a ``Fallback``, or None.

    Raises:
        ConfigError: anything else.
    """
    if value is None or isinstance(value, Fallback):
        return value
    if value == "full":
        return Fallback()
    if not isinstance(value, Mapping):
        raise ConfigError(f"fallback {value!r} is not known: give 'full', or a mapping with {_fields()}")
    try:
        return Fallback(**value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"fallback {where}: {first['msg']}; its fields are {_fields()}") from None


def _fields() -> str:
    return ", ".join(Fallback.model_fields)


def token_confidence(scores: Tensor, measure: Measure) -> Tensor:
    """``[...]`` float32 confidence in the next token; NaN where the scores are not numbers.

    Args:
        scores: ``[..., V]`` logits or log-probabilities, V at least 2; -inf is probability 0.
        measure: which.
    """
    logp = scores.float().log_softmax(dim=-1)
    if measure == "entropy":
        return torch.where(logp == -torch.inf, 0.0, logp.exp() * logp).sum(dim=-1)
    first, second = logp.exp().topk(2, dim=-1).values.unbind(dim=-1)
    return first - second if measure == "margin" else first


def answer_confidence(scores: Tensor, real: Tensor, measure: Measure) -> Tensor:
    """``[B]`` confidence in the first tokens of an answer: that of the token which the model is least sure of.

    Args:
        scores: ``[B, T, V]`` of the tokens that are looked at.
        real: ``[B, T]`` bool, false behind an answer's end; its end token is one of the answer's.
        measure: which.
    """
    each = token_confidence(scores, measure)
    return torch.where(real, each, torch.inf).amin(dim=1)
