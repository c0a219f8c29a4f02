"""How many image tokens may stay: ``iqr``, ``auto``, ``top-p:0.9``, a fraction with a decimal point, or a whole number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, PlainValidator

from trimkit.errors import ConfigError

__all__ = ["Budget", "BudgetField", "parse_budget"]

_REMEDY = (
    "give 'iqr', 'auto', 'top-p:0.9', a fraction such as 0.2 (1.0 keeps all), or a whole number of tokens such as 121"
)
_DIAL = 0.5  # of ``auto`` without a number: about a ninth of the tokens


@dataclass(frozen=True)
class Budget:
    """A parsed budget. A number counts every token the language model sees for an image, the aggregated one included.

    Attributes:
        kind: ``iqr``, ``auto`` (see ``trimkit.core.auto_budget``) and ``top-p`` decide per image; ``ratio`` and ``count`` are
            fixed.
        value: the mass, the fraction, the count, or the dial of ``auto``; 0 for ``iqr``.
    """

    kind: Literal["iqr", "auto", "top-p", "ratio", "count"]
    value: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what keeps nothing, or more than all.

        Raises:
            ConfigError: a fraction or mass outside (0, 1], a count below 1, or a dial that is not above 0.
        """
        if self.kind in ("ratio", "top-p") and not (math.isfinite(self.value) and 0.0 < self.value <= 1.0):
            raise ConfigError(f"budget {self.value!r} is outside (0, 1]: {_REMEDY}")
        if self.kind == "count" and self.value < 1:
            raise ConfigError(f"budget {self.value!r} keeps nothing: {_REMEDY}")
        if self.kind == "auto" and not (math.isfinite(self.value) and self.value > 0.0):
            raise ConfigError(
                f"budget 'auto:{self.value!r}' has no dial above 0: give for example 'auto:0.5', or {_REMEDY[5:]}"
            )

    @property
    def keeps_all(self) -> bool:
        """True where nothing can be dropped whatever the image."""
        return self.kind in ("ratio", "top-p") and self.value == 1.0

    def tokens(self, total: int) -> int:
        """The fixed number of tokens of an image of ``total``: at least 1 (0 of 0), at most all.

        Raises:
            ConfigError: the budget decides per image.
        """
        if self.kind not in ("ratio", "count"):
            raise ConfigError(f"budget {self} decides per image; a fixed number of tokens is needed here: {_REMEDY}")
        wanted = int(total * self.value) if self.kind == "ratio" else int(self.value)
        return min(max(wanted, 1), total)

    def __str__(self) -> str:
        if self.kind == "iqr":
            return "iqr"
        if self.kind in ("top-p", "auto"):
            return f"{self.kind}:{float(self.value)!r}"
        return str(int(self.value)) if self.kind == "count" else repr(float(self.value))

    def in_words(self) -> str:
        """What it means, so that 1 and 1.0 read differently: ``1 token``, ``all tokens (a fraction of 1.0)``."""
        if self.kind == "count":
            return f"{int(self.value)} token{'' if self.value == 1 else 's'}"
        if self.kind == "ratio":
            return "all tokens (a fraction of 1.0)" if self.value == 1.0 else f"{self.value:.3g} of the tokens"
        return str(self)

    def to_plain(self) -> str | float | int:
        """The form a JSON or YAML config holds; ``parse_budget`` reads it back."""
        if self.kind == "ratio":
            return float(self.value)
        return int(self.value) if self.kind == "count" else str(self)


def parse_budget(value: object) -> Budget:
    """Read a budget from Python, JSON or the command line.

    An ``int`` (or text without a decimal point) counts tokens; a ``float`` (or text with one) is a fraction in (0, 1].

    Raises:
        ConfigError: anything else, with the accepted forms.
    """
    if isinstance(value, Budget):
        return value
    if isinstance(value, bool) or value is None:
        raise ConfigError(f"budget {value!r} is not a budget: {_REMEDY}")
    if isinstance(value, int):
        return Budget("count", value)
    if isinstance(value, float):
        return Budget("ratio", value)
    if isinstance(value, str):
        return _parse_text(value.strip())
    raise ConfigError(f"budget {value!r} is not a budget: {_REMEDY}")


def _parse_text(text: str) -> Budget:
    if text.lower() == "iqr":
        return Budget("iqr")
    if text.lower() == "auto":
        return Budget("auto", _DIAL)
    kind: Literal["ratio", "top-p", "auto"] = "ratio"
    number = text
    for each in ("top-p", "auto"):
        if text.lower().startswith(f"{each}:"):
            kind, number = each, text[len(each) + 1 :]
    try:
        if kind == "ratio" and number.lstrip("+-").isdigit():
            return Budget("count", int(number))
        return Budget(kind, float(number))
    except (ValueError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"budget {text!r} is not a budget: {_REMEDY}") from None


def _validate(value: Any) -> Budget:
    return parse_budget(value)


BudgetField = Annotated[Budget, PlainValidator(_validate), PlainSerializer(lambda budget: budget.to_plain())]
"""A pydantic field that takes any accepted form and serialises to the plain one."""
