"""What every chat request is made of, whichever server reads it: turns, pictures, and how it is reduced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trimkit.io.text import is_text, parse_json
from trimkit.io.validation import first_fault
from trimkit.serving.server.errors import ApiError, bad_request

__all__ = ["ChatBody", "ImagePart", "Message", "TextPart", "TrimRequest"]

_MOST_TURNS = 1000
_LONGEST_QUERY = 16_384
_QUERY = "mm_processor_kwargs.trim.query"


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

    @property
    def says_nothing(self) -> bool:
        """Whether all is left to the server."""
        return self.model_fields_set <= {"report"} and not self.model_extra


class _ProcessorArguments(_Strict):
    trim: TrimRequest | None = None


class ChatBody(BaseModel):
    """The body of ``POST /v1/chat/completions``; a server adds the fields that it serves.

    Attributes:
        messages: the conversation.
        stream: whether the reply comes in pieces.
        mm_processor_kwargs: holds ``trim``, how this request is reduced.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    messages: list[Message] = Field(min_length=1, max_length=_MOST_TURNS)
    stream: bool | None = None
    mm_processor_kwargs: _ProcessorArguments | None = None

    @classmethod
    def read(cls, body: bytes) -> Self:
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
            request = cls.model_validate(content)
        except ValidationError as error:
            raise _told(error) from None
        request.refuse()
        return request

    def refuse(self) -> None:
        """Refuse what no field's type tells; a subclass adds its own.

        Raises:
            ApiError: a 400 that names the field.
        """
        for number, message in enumerate(self.messages):
            _refuse_turn(message, f"messages.{number}")
        query = self.trim.query
        if query is not None and not query.strip():
            raise bad_request("the query is empty: leave it out, or name what is asked", _QUERY)
        if query is not None and not is_text(query):
            raise bad_request("the query holds lone surrogates, which are no letters: send UTF-8", _QUERY)

    @property
    def trim(self) -> TrimRequest:
        """How it is to be reduced."""
        given = self.mm_processor_kwargs
        return TrimRequest() if given is None or given.trim is None else given.trim


def _told(error: ValidationError) -> ApiError:
    where, message, kind = first_fault(error)
    if kind == "missing":
        return bad_request(f"'{where}' is missing: give it", where)
    if kind == "extra_forbidden":
        return bad_request(f"'{where}' is not a field that is served: leave it out", where)
    return bad_request(f"'{where}': {message}", where or None)


def _refuse_turn(message: Message, where: str) -> None:
    for name, value in (message.model_extra or {}).items():
        if value not in (None, [], {}, "") or isinstance(value, bool):
            raise bad_request(f"'{where}.{name[:80]}' is not served here: leave it out", f"{where}.{name[:80]}")
    parts: Sequence[str | TextPart | ImagePart]
    parts = [message.content] if isinstance(message.content, str) else message.content
    if message.role != "user" and any(isinstance(part, ImagePart) for part in parts):
        raise bad_request(f"'{where}' is of the role {message.role}: pictures stand in turns of the user", where)
    texts = [part if isinstance(part, str) else part.text for part in parts if not isinstance(part, ImagePart)]
    if not all(map(is_text, texts)):
        raise bad_request(f"'{where}.content' holds lone surrogates, which are no letters: send UTF-8", where)
