"""The body of ``POST /v1/chat/completions``: which fields there are, and which of OpenAI's cannot be served."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trimkit.io.text import is_text, parse_json
from trimkit.io.validation import first_fault
from trimkit.serving.server.errors import ApiError, bad_request

__all__ = ["ChatRequest", "ImagePart", "Message", "TextPart", "TrimRequest", "read_request"]

_MOST_TURNS = 1000
_MOST_STOPS = 16
_LONGEST_STOP = 500
_LONGEST_QUERY = 16_384

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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TextPart(_Strict):
    """Words."""

    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    """Where a picture is; ``detail`` is taken and changes nothing."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(_Strict):
    """A picture; ``uuid`` is vLLM's, and changes nothing here: pictures are known by their content."""

    type: Literal["image_url"]
    image_url: ImageUrl | str
    uuid: str | None = None

    @property
    def url(self) -> str:
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _said(cls, content: Any) -> Any:
        if content is None:
            raise ValueError("there is no content: give a text, or a list of parts")
        return content


class TrimRequest(BaseModel):
    """How one request is reduced: ``mm_processor_kwargs={"trim": {...}}``. Further keys are options of the method.

    ``query``, ``turns`` and ``fallback`` are as ``trimkit.reduce`` takes them, ``"fallback": "none"`` for none where the server
    has one; ``report`` asks for what was kept.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    method: str | None = None
    budget: str | int | float | None = None
    query: str | None = Field(default=None, max_length=_LONGEST_QUERY)
    turns: Literal["refresh", "first", "union"] | None = None
    fallback: Literal["full", "none"] | dict[str, Any] | None = None
    report: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Fields of the method."""
        given = {} if self.budget is None else {"budget": self.budget}
        return given | dict(self.model_extra or {})


class _ProcessorArguments(_Strict):
    trim: TrimRequest | None = None


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request, checked field by field. What it asks for beyond the server's limits is checked later."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    model: str
    messages: list[Message] = Field(min_length=1, max_length=_MOST_TURNS)
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
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    mm_processor_kwargs: _ProcessorArguments | None = None

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

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the reply."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def trim(self) -> TrimRequest:
        """How it is to be reduced."""
        given = self.mm_processor_kwargs
        return TrimRequest() if given is None or given.trim is None else given.trim

    @property
    def wanted_tokens(self) -> int | None:
        """The length limit of the reply, where the request names one."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def read_request(body: bytes) -> ChatRequest:
    """The request in a body.

    Raises:
        ApiError: a 400 that names the field.
    """
    try:
        content = parse_json(body.decode())
    except UnicodeDecodeError as error:
        raise bad_request(f"the body is not UTF-8 text from byte {error.start} on: send JSON") from None
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not JSON ({str(error)[:120]}): send a JSON object") from None
    if not isinstance(content, dict):
        raise bad_request("the body is not a JSON object: send one with 'model' and 'messages'")
    try:
        request = ChatRequest.model_validate(content)
    except ValidationError as error:
        raise _told(error) from None
    _refuse_unserved(request)
    return request


def _told(error: ValidationError) -> ApiError:
    where, message, kind = first_fault(error)
    if kind == "missing":
        return bad_request(f"'{where}' is missing: give it", where)
    if kind == "extra_forbidden":
        return bad_request(f"'{where}' is not a field that is served: leave it out", where)
    return bad_request(f"'{where}': {message}", where or None)


def _refuse_unserved(request: ChatRequest) -> None:
    for name, value in (request.model_extra or {}).items():
        if name in _IGNORED or any(
            (value == each and type(value) is not bool) or value is each for each in _UNSERVED.get(name, ())
        ):
            continue
        known = name in _UNSERVED
        why = "is not served here" if known else "is no field that this server knows"
        raise bad_request(f"'{name[:80]}' {why}: leave it out", name[:80], "unsupported_parameter")
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise bad_request("'max_tokens' and 'max_completion_tokens' differ: give one of them", "max_tokens")
    for i, message in enumerate(request.messages):
        _refuse_turn(message, f"messages.{i}")
    texts = [*request.stops, request.model, request.trim.query or ""]
    if not all(map(is_text, texts)):
        raise bad_request("a text holds lone surrogates, which are no letters: send UTF-8")


def _refuse_turn(message: Message, where: str) -> None:
    for name, value in (message.model_extra or {}).items():
        if value not in (None, [], {}, "") or isinstance(value, bool):
            raise bad_request(f"'{where}.{name[:80]}' is not served here: leave it out", f"{where}.{name[:80]}")
    parts = [message.content] if isinstance(message.content, str) else message.content
    if message.role != "user" and any(isinstance(part, ImagePart) for part in parts):
        raise bad_request(f"'{where}' is of the role {message.role}: pictures stand in turns of the user", where)
    texts = [part if isinstance(part, str) else part.text for part in parts if not isinstance(part, ImagePart)]
    if not all(map(is_text, texts)):
        raise bad_request(f"'{where}.content' holds lone surrogates, which are no letters: send UTF-8", where)
