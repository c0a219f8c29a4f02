"""From a conversation to model inputs: the checkpoint's chat template, its processor, and what of the text is refused."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from trimkit.models import family_of
from trimkit.serving.server.errors import ApiError, bad_request, is_out_of_memory
from trimkit.serving.server.messages import ImagePart, Message

__all__ = ["PromptBuilder"]

_PLACEHOLDERS = ("image_token", "video_token", "audio_token")
_PART = "{'type'"  # what a template prints that takes turns as plain text alone
_LETTERS_A_TOKEN = 16  # more than any tokenizer's mean: longer texts cannot fit, and are not tokenised to learn it

_log = logging.getLogger(__name__)

Turn = dict[str, Any]
T = TypeVar("T")


class PromptBuilder:
    """Builds model inputs of one conversation, ``[1, L]``, on the model's device.

    Args:
        model: the model.
        processor: its processor. A copy is used, by one thread at a time: its tokenizer is none for several.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = copy.deepcopy(processor)
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
        self._image_token_id = family_of(model).image_token_id(model)
        owners = (self._processor, self._tokenizer)
        self._placeholders = {str(getattr(owner, name, None) or "") for owner in owners for name in _PLACEHOLDERS}
        self._lock = threading.Lock()

    @property
    def room(self) -> int | None:
        """Positions that the language model has, where its config says."""
        found = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        return None if found is None else int(found)

    def build(self, messages: Sequence[Message], pictures: Sequence[Any]) -> Any:
        """Model inputs.

        Args:
            messages: the conversation.
            pictures: RGB images of PIL, in the order of the conversation.

        Raises:
            ApiError: a 400: a placeholder is typed in, the template refuses these turns, the text is too long.
        """
        self._check_texts(messages)
        with self._lock:
            prompt = self._render(messages)
            inputs = self._process(prompt, pictures)
        self._check_length(inputs)
        return inputs.to(self._model.device, self._model.dtype)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt's text alone, with one placeholder a picture.

        Raises:
            ApiError: a 400, as ``build`` raises it.
        """
        self._check_texts(messages)
        with self._lock:
            return self._render(messages)

    def with_processor(self, work: Callable[[Any], T]) -> T:
        """What ``work`` makes of the processor's copy, while nobody else uses it."""
        with self._lock:
            return work(self._processor)

    def _check_texts(self, messages: Sequence[Message]) -> None:
        texts = [text for message in messages for text in _texts(message)]
        if not any(text.strip() for text in texts) and not any(_has_pictures(message) for message in messages):
            raise bad_request("the conversation says nothing: ask something", "messages")
        for text in texts:
            for token in self._placeholders - {""}:
                if token in text:
                    raise bad_request(f"a text holds the placeholder {token!r}: leave it out, it is added for you")
        room, letters = self.room, sum(map(len, texts))
        if room is not None and letters > room * _LETTERS_A_TOKEN:
            raise bad_request(
                f"the texts have {letters} letters, more than {room} tokens can be: shorten them",
                "messages",
                "context_length_exceeded",
            )

    def _render(self, messages: Sequence[Message]) -> str:
        """The prompt's text: turns as lists of parts, or where the template wants it so, as plain text."""
        if not getattr(self._processor, "chat_template", None):
            return _without_template(messages, getattr(self._processor, "image_token", "<image>"))
        texts = [text for message in messages for text in _texts(message)]
        said_parts = sum(text.count(_PART) for text in texts)  # a user may write of them
        # Templates leave out parts of earlier replies on purpose, thoughts say.
        must = [text for message in messages if message.role != "assistant" for text in _texts(message)]
        refused: Exception | None = None
        for plain in ((), ("system", "assistant"), ("system", "assistant", "user")):
            turns = [_turn(message, plain) for message in messages]
            try:
                text = self._processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            except Exception as error:  # templates refuse by exceptions of many kinds
                refused = refused or error
                continue
            if text.count(_PART) <= said_parts and all(said.strip() in text for said in must):
                return str(text)
        why = "it leaves out what they say" if refused is None else str(refused)
        raise bad_request(f"the model's chat template does not take these turns ({why[:200]}): change them", "messages")

    def _process(self, prompt: str, pictures: Sequence[Any]) -> Any:
        given = {"images": list(pictures)} if pictures else {}
        bos = getattr(self._tokenizer, "bos_token", None)
        if bos and prompt.startswith(bos):  # the template has written it
            given["add_special_tokens"] = False  # type: ignore[assignment]
        try:
            return self._processor(text=[prompt], return_tensors="pt", verbose=False, **given)
        except Exception as error:  # processors refuse sizes and counts in ways of their own
            if is_out_of_memory(error):
                raise
            _log.warning("the processor failed: %s", error, exc_info=error)
            raise bad_request(f"the model's processor does not take these pictures and texts ({error})") from error

    def _check_length(self, inputs: Any) -> None:
        room = self.room
        if room is None:
            return
        text = int((inputs["input_ids"] != self._image_token_id).sum())
        if text >= room:
            raise _too_long(f"the texts take {text} tokens", room)

    def check_room(self, prompt: int, tokens: int | None, limit: int) -> int:
        """How many tokens a reply may have behind a prompt of ``prompt`` tokens as it is run, image tokens included.

        Args:
            prompt: tokens of the prompt.
            tokens: what the request asks for; None for as many as fit, up to ``limit``.
            limit: the server's.

        Raises:
            ApiError: a 400: they do not fit.
        """
        room = self.room
        if room is None:
            return tokens or limit
        if prompt + (tokens or 1) > room:
            more = f" and the reply may take {tokens}" if tokens else ""
            raise _too_long(f"the prompt takes {prompt} tokens{more}", room)
        return tokens or min(limit, room - prompt)


def _too_long(what: str, room: int) -> ApiError:
    told = f"{what}, but this model has room for {room}: send less text, fewer pictures, or ask for fewer tokens"
    return bad_request(told, "messages", "context_length_exceeded")


def _texts(message: Message) -> list[str]:
    if isinstance(message.content, str):
        return [message.content]
    return [part.text for part in message.content if not isinstance(part, ImagePart)]


def _has_pictures(message: Message) -> bool:
    return not isinstance(message.content, str) and any(isinstance(part, ImagePart) for part in message.content)


def _turn(message: Message, plain: Sequence[str]) -> Turn:
    role = "system" if message.role == "developer" else message.role
    if role in plain and not _has_pictures(message):
        return {"role": role, "content": "\n".join(_texts(message))}
    if isinstance(message.content, str):
        return {"role": role, "content": [{"type": "text", "text": message.content}]}
    parts = [
        {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
        for part in message.content
    ]
    return {"role": role, "content": parts}


def _without_template(messages: Sequence[Message], image_token: str) -> str:
    """The form that LLaVA-1.5 was trained with, as ``trimkit.ask`` writes it."""
    said = []
    for message in messages:
        parts = [] if isinstance(message.content, str) else message.content
        marks = f"{image_token}\n" * sum(isinstance(part, ImagePart) for part in parts)
        words = marks + "\n".join(_texts(message))
        name = {"user": "USER: ", "assistant": "ASSISTANT: "}.get(message.role, "")
        said.append(f"{name}{words}")
    return " ".join([*said, "ASSISTANT:"])
