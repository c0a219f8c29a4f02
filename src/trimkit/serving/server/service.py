"""The model with all that serves it: from a request's body to a job of the engine, and what is known of a report."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from trimkit.ask import seen_boxes
from trimkit.core.confidence import Fallback, fallback_of
from trimkit.core.types import Report
from trimkit.errors import ConfigError, TrimkitError, UnsupportedError
from trimkit.methods import Method, get_method
from trimkit.models import family_of
from trimkit.pipeline.call_settings import check_signals
from trimkit.serving.server.errors import ApiError, bad_request
from trimkit.serving.server.jobs import Job
from trimkit.serving.server.messages import TrimRequest
from trimkit.serving.server.pictures import read_pictures
from trimkit.serving.server.prefill import Prefill
from trimkit.serving.server.prompts import PromptBuilder
from trimkit.serving.server.sampling import sampling_of
from trimkit.serving.server.schema import ChatRequest
from trimkit.serving.server.settings import Access, Limits

__all__ = ["Asked", "Service"]

Size = tuple[int, int]


class Asked:
    """A request that can be answered.

    Attributes:
        job: for the engine.
        stream, count: whether the reply is streamed, and whether a stream ends with the usage.
        sizes: of the pictures, where a report is wanted; else None.
    """

    def __init__(self, request: ChatRequest, job: Job, sizes: list[Size] | None) -> None:
        self.job, self.sizes = job, sizes
        self.stream = bool(request.stream)
        self.count = request.stream_options is not None and request.stream_options.include_usage


class Service:
    """One model, one way of reducing that requests may change.

    Args:
        model, processor: as ``trimkit.loading.load_model`` gives them.
        method: how requests are reduced that say nothing of it.
        limits, access: what is allowed.
        scorer: as ``trimkit.reduce`` takes it.
        fallback: of requests that say nothing of it.

    Raises:
        ConfigError, UnsupportedError: this model, or this method on it, cannot be served.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        method: Method,
        limits: Limits,
        access: Access,
        scorer: Any = None,
        fallback: Fallback | None = None,
    ) -> None:
        self.limits, self.access, self.fallback = limits, access, fallback
        self._model, self._processor, self.method = model, processor, method
        self._family = family_of(model)
        self._check(method)
        self.prompts = PromptBuilder(model, processor)
        self.prefill = Prefill(model, processor, scorer)

    def read(self, body: bytes, until: float | None = None) -> Asked:
        """What a body asks for; takes as long as its pictures take to decode.

        Args:
            body: of the request.
            until: by ``time.monotonic``, when pictures from the web have to be there; None where none may be waited for.

        Raises:
            ApiError: 400, or 404 for another model.
            WebPicturesError: it names pictures on the web that nobody may wait for.
        """
        request = ChatRequest.read(body)
        if request.model != self.access.model_name:
            message = f"the model {request.model[:80]!r} is not served here: it is {self.access.model_name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        self._check_tokens(request)
        method = self._method_of(request.trim)
        pictures = read_pictures(request.messages, self.limits, remote=self.access.remote_pictures, until=until)
        inputs = self.prompts.build(request.messages, pictures)
        job = Job(
            inputs=inputs,
            pictures=len(pictures),
            method=method,
            query=request.trim.query,
            turns=request.trim.turns or "refresh",
            sampling=sampling_of(request, self._model.generation_config),
            stops=request.stops,
            tokens=request.wanted_tokens,
            emit=_nobody,
            fallback=self._fallback_of(request.trim, method),
            own_way=request.trim.says_nothing,
        )
        return Asked(request, job, [picture.size for picture in pictures] if request.trim.report else None)

    def boxes(self, sizes: list[Size], report: Report | None) -> list[Any]:
        """Which part of every picture the model saw; None each where that is not known."""
        if report is None:
            return []
        try:
            pictures = [SimpleNamespace(size=size) for size in sizes]
            return self.prompts.with_processor(lambda own: seen_boxes(self._model, own, pictures, report))
        except (TrimkitError, ValueError, RuntimeError):
            return [None] * len(report.images)

    def _check_tokens(self, request: ChatRequest) -> None:
        wanted, most = request.wanted_tokens, self.limits.tokens
        if wanted is not None and wanted > most:
            raise bad_request(f"{wanted} tokens are over this server's limit of {most}: ask for fewer", "max_tokens")
        if (request.min_tokens or 0) > (most if wanted is None else wanted):
            raise bad_request(f"min_tokens={request.min_tokens} is more than the reply may have", "min_tokens")

    def _method_of(self, trim: TrimRequest) -> Method:
        """The server's method with the request's changes; another method takes over budget and profile that were set."""
        own, options = self.method, trim.options
        try:
            if trim.method in (None, own.name):
                method = get_method(own, **options)
            else:
                kept: dict[str, Any] = {
                    name: getattr(own, name) for name in ("budget", "profile") if name in own.model_fields_set
                }
                method = get_method(str(trim.method), **{**kept, **options})
            self._check(method)
        except (ConfigError, UnsupportedError) as error:
            raise bad_request(str(error), "mm_processor_kwargs.trim") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise bad_request(f"the options cannot be read ({error})", "mm_processor_kwargs.trim") from None
        return method

    def _fallback_of(self, trim: TrimRequest, method: Method) -> Fallback | None:
        """What the request says, else the server's, which a method that keeps everything has no use for."""
        if trim.fallback is None:
            return None if method.keeps_all else self.fallback
        try:
            found = None if trim.fallback == "none" else fallback_of(trim.fallback)
        except ConfigError as error:
            raise bad_request(str(error), "mm_processor_kwargs.trim.fallback") from None
        if found is not None and method.keeps_all:
            message = f"method {method.name!r} keeps every token: leave the fallback out"
            raise bad_request(message, "mm_processor_kwargs.trim.fallback")
        if found is not None and found.tokens > self.limits.tokens:
            message = f"the fallback looks at {found.tokens} tokens, over this server's limit of {self.limits.tokens}"
            raise bad_request(message, "mm_processor_kwargs.trim.fallback")
        return found

    def _check(self, method: Method) -> None:
        if method.prunes_llm:
            raise UnsupportedError(
                f"method {method.name!r} drops tokens inside the language model, where replies are batched: use another"
            )
        check_signals(self._family, self._model, method)


def _nobody(event: Any) -> None:
    """Until somebody waits for it."""
