"""The body of ``POST /v1/chat/completions``: which fields there are, and which of OpenAI's cannot be served."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trimkit.io.text import is_text
from trimkit.serving.server.errors import bad_request
from trimkit.serving.server.messages import ChatBody

__all__ = ["ChatRequest"]

_MOST_STOPS = 16
_LONGEST_STOP = 500

# OpenAI's fields that change what comes out and are not served, with the values that ask for nothing.
_UNSERVED: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
# Fields that change nothing of the reply.
_IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    include_usage: bool = False


class ChatRequest(ChatBody):
    """A request, checked field by field. What it asks for beyond the server's limits is checked later."""

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: str | list[str] | None = None
    n: int | None = None
    ignore_eos: bool | None = None
    stream_options: _StreamOptions | None = None

    @field_validator("n")
    @classmethod
    def _one(cls, n: int | None) -> int | None:
        if n not in (None, 1):
            raise ValueError(
                f"n={n}: one reply is given for a request; send it {n} times" if n > 0 else "n has to be 1"
            )
        return n

    @field_validator("stop")
    @classmethod
    def _stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        words = [stop] if isinstance(stop, str) else stop or []
        if len(words) > _MOST_STOPS or any(not 0 < len(word) <= _LONGEST_STOP for word in words):
            raise ValueError(f"give at most {_MOST_STOPS} texts of 1 to {_LONGEST_STOP} letters")
        return stop

    def refuse(self) -> None:
        """Refuse fields that change the reply and are not served, and fields that nobody knows."""
        for name, value in (self.model_extra or {}).items():
            if name in _IGNORED or any(
                (value == each and type(value) is not bool) or value is each for each in _UNSERVED.get(name, ())
            ):
                continue
            why = "is not served here" if name in _UNSERVED else "is no field that this server knows"
            raise bad_request(f"'{name[:80]}' {why}: leave it out", name[:80], "unsupported_parameter")
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise bad_request("'max_tokens' and 'max_completion_tokens' differ: give one of them", "max_tokens")
        super().refuse()
        if not all(map(is_text, [*self.stops, self.model])):
            raise bad_request("a text holds lone surrogates, which are no letters: send UTF-8")

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the reply."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wanted_tokens(self) -> int | None:
        """The length limit of the reply, where the request names one."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
